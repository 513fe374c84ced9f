"""One prompt, from its submission to the printed answer, and Ctrl-C in between."""
from __future__ import annotations

import contextlib
import sys
from typing import Any, Dict

from client.errors import TaskEnded, TaskError
from client.manage_client import ManageClient
from client.terminal import Terminal, describe_error, show_waiting_line
from console.printable import without_password
from console.process import (
    Stopped,
    exit_status,
    ignore_stop_signals,
    settle_streams,
    wait_for_input,
)

Json = Dict[str, Any]

WAIT_SECONDS = 25  # How long the server may hold a request.
INTERACTIVE_WAIT_SECONDS = 1  # The same while somebody watches the status line.


def run(client: ManageClient, terminal: Terminal, fields: Json) -> int:
    """Submit one prompt and print its answer. Return the exit status."""
    task_id = client.submit(fields)
    try:
        write_result(client, terminal, task_id)
    except KeyboardInterrupt as interrupt:
        return _handle_interrupt(client, terminal, task_id, interrupt)
    except (BrokenPipeError, TaskEnded):
        raise
    except TaskError as error:
        terminal.say(f"test.py: {error}\n{_describe_later(client, task_id)}")
        return 1
    except OSError as error:
        settle_streams()
        terminal.say(f"test.py: The answer can't be written: {describe_error(error)}\n"
                     + _describe_later(client, task_id))
        return 1
    terminal.show_status()
    return 0


def write_result(client: ManageClient, terminal: Terminal, task_id: int) -> None:
    """Wait for the answer to a task, and write it. Raises TaskError if there will be none."""
    if sys.stdout.isatty():
        with show_waiting_line(terminal, lambda: client.get_state(task_id)):
            _stream_answer(client, terminal, task_id)
    else:
        # A pipe gets the answer in one piece, because it can't take back half an answer when
        # a new attempt starts over.
        wait_seconds = INTERACTIVE_WAIT_SECONDS if terminal.is_interactive else WAIT_SECONDS
        terminal.write_answer(
            client.wait_for_result(task_id, wait_seconds, terminal.show_waiting))
    terminal.end_line()


def _stream_answer(client: ManageClient, terminal: Terminal, task_id: int) -> None:
    """Write the answer as it arrives."""
    has_begun = False
    for name, data in client.stream_events(task_id):
        if name == "completed":
            return
        if name == "attempt" and has_begun:
            terminal.say("The answer starts over in a new attempt:")
            has_begun = False
        elif name == "thinking":
            terminal.write_thinking(_text(data, "thinking"))
            has_begun = True
        elif name == "":
            terminal.write_answer(_text(data, "text"))
            has_begun = True
    # The server has no streams.
    terminal.write_answer(
        client.wait_for_result(task_id, INTERACTIVE_WAIT_SECONDS, terminal.show_waiting))


def _text(data: Json, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _handle_interrupt(client: ManageClient, terminal: Terminal, task_id: int,
                      interrupt: KeyboardInterrupt) -> int:
    """Cancel the task unless the user declines or presses Ctrl-C again. Return the exit status."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            is_wanted = isinstance(interrupt, Stopped) or _confirm_cancel(terminal)
        except Stopped as stopped:
            interrupt, is_wanted = stopped, True
        ignore_stop_signals()
        if is_wanted:
            try:
                is_cancelled = client.cancel(task_id)
                terminal.say(f"Cancelled task {task_id}." if is_cancelled else
                             f"Task {task_id} had already ended. "
                             + _describe_later(client, task_id))
                return exit_status(interrupt)
            except TaskError as error:
                terminal.say(str(error))
    terminal.say(f"Task {task_id} was not cancelled. {_describe_later(client, task_id)}")
    return exit_status(interrupt)


def _describe_later(client: ManageClient, task_id: int) -> str:
    header = ' -H "Authorization: Bearer $USER_TOKEN"' if client.connection.has_token else ""
    url = without_password(client.connection.url)
    return f"To get its result later:\n  curl{header} {url}/result/{task_id}"


def _confirm_cancel(terminal: Terminal) -> bool:
    """Ask whether to cancel. Without a terminal to ask at, the answer is yes."""
    if not (sys.stdin.isatty() and terminal.is_interactive):
        return True
    terminal.say("")
    answer = None
    while answer not in ("", "y", "yes", "n", "no"):
        answer = ask("Cancel the task? [Y/n] ").lower()
    return not answer.startswith("n")


def ask(question: str) -> str:
    """Read a line of stdin. If somebody types it, ask for it, on stderr where that is possible."""
    screen = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
    if screen and sys.stdin.isatty():
        with contextlib.suppress(OSError):
            print(question, end="", file=screen, flush=True)
        wait_for_input(sys.stdin)
    return sys.stdin.readline().strip()
