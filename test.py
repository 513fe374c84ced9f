"""Submits a prompt to the Manage Server, waits for the answer and prints it.

From Python: `submit_task(prompt, model)` and `wait_for_result(task_id)`. From the shell:
`python test.py "Why is the sky blue?"`, or `--help` for more.
"""
from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, Optional, Sequence

import config
from client import batch, one_prompt
from client.batch_files import FileError
from client.columns import columns_of
from client.connection import Connection, read_reason
from client.errors import TaskError
from client.fields import parse_fields
from client.manage_client import ManageClient
from client.streams import decode_argument, prepare_streams
from client.task_table import format_tasks
from client.terminal import Terminal, describe_error
from console.printable import without_password
from console.process import (
    exit_status,
    print_error,
    print_line,
    raise_on_stop_signal,
    settle_streams,
)

Json = Dict[str, Any]

MAX_LISTED = 50
PIPE_COLUMNS = 160  # for a list of tasks that no terminal shows
BROKEN_PIPE_STATUS = 141  # that of a program that SIGPIPE ends


def submit_task(
    prompt: str, model: Optional[str] = None, server_url: Optional[str] = None, **fields: Any
) -> int:
    """Submit a prompt and return the task id.

    Without a model, the server chooses. `fields` are further fields of POST /submit. The settings
    MANAGE_SERVER_URL and USER_TOKEN apply. Raises TaskError.
    """
    with _connect(server_url) as client:
        return client.submit({"prompt": prompt, "model": model, **fields})


def wait_for_result(task_id: int, server_url: Optional[str] = None) -> str:
    """Return the answer, however long it takes. Raises TaskError if there will be none."""
    with _connect(server_url) as client:
        return client.wait_for_result(task_id, one_prompt.WAIT_SECONDS)


def _connect(server_url: Optional[str]) -> ManageClient:
    settings = config.Settings.from_environ(config.TEST)
    try:
        url = config.server_url(server_url or settings.manage_server_url)
    except ValueError as error:
        raise TaskError(f"server_url {error}, not {without_password(server_url or '')!r}."
                        ) from None
    return ManageClient(Connection(url, settings.user_token))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line. Return the exit status."""
    parser = _make_parser()
    settings, arguments = config.load(parser, argv)
    _check_combination(parser, arguments)
    if not prepare_streams():
        return 1
    terminal = Terminal(sys.stdout, sys.stderr)
    try:
        connection = Connection(settings.manage_server_url, settings.user_token,
                                on_outage=terminal.say, on_busy=terminal.show_busy)
        with ManageClient(connection) as client:
            return _run(client, terminal, arguments)
    except FileError as error:
        terminal.say(f"test.py: {error}")
        return 2
    except TaskError as error:
        terminal.say(f"test.py: {error}")
        return 1
    except BrokenPipeError:  # The reader of the answer has enough of it: see _run_program.
        raise
    except OSError as error:
        settle_streams()
        terminal.say(f"test.py: {describe_error(error)}")
        return 1
    except KeyboardInterrupt as interrupt:
        terminal.say("Stopped.")
        return exit_status(interrupt)


def _make_parser() -> argparse.ArgumentParser:
    parser = config.make_parser(
        config.TEST,
        "Submit a prompt, or a file of prompts, and wait for the answers. "
        "Asks for a prompt if given neither.",
    )
    parser.add_argument("prompt", nargs="?", type=decode_argument,
                        help="the prompt; - reads it from stdin")
    parser.add_argument("--model", type=decode_argument,
                        help="model for prompts that don't name one (default: the server's)")
    parser.add_argument("--fields", type=_parse_fields, default={},
                        metavar="JSON",
                        help="further fields of POST /submit, as a JSON object")
    parser.add_argument("--file", help="file with one prompt per line; in a .jsonl file, each line "
                                       "is a JSON object with fields of POST /submit")
    parser.add_argument("--output", metavar="FILE",
                        help="file for the answers to --file, as JSON lines (default: "
                                         "the name of --file with .results.jsonl); if it exists, "
                                         "only prompts without an answer in it are submitted")
    parser.add_argument("--list", action="store_true", help="list your newest tasks")
    parser.add_argument("--result", type=_parse_task_id, metavar="ID",
                        help="wait for the answer to a task, and print it")
    parser.add_argument("--cancel", type=_parse_task_id, metavar="ID",
                        help="cancel a task that is queued or running")
    return parser


def _check_combination(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    given = [arguments.prompt, arguments.file or None, arguments.list or None, arguments.cancel,
             arguments.result]
    if given.count(None) < 4 or (arguments.output and not arguments.file):
        parser.error("give one of a prompt, --file, --list, --cancel and --result; --output needs "
                     "--file")
    is_about_tasks = arguments.list or arguments.cancel or arguments.result
    if is_about_tasks and (arguments.model is not None or arguments.fields):
        parser.error("--model and --fields are for prompts: they don't go with --list, --cancel "
                     "and --result")


def _parse_task_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 2**63):
        raise argparse.ArgumentTypeError("must be the number of a task, such as 7")
    return int(text)


def _parse_fields(text: str) -> Json:
    fields = parse_fields(text)
    if fields is None:
        raise argparse.ArgumentTypeError("must be a JSON object, such as '{\"think\": true}'")
    return fields


def _run(client: ManageClient, terminal: Terminal, arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(client, terminal)
    if arguments.cancel is not None:
        return _cancel(client, terminal, arguments.cancel)
    if arguments.result is not None:
        one_prompt.write_result(client, terminal, arguments.result)
        terminal.show_status()
        return 0
    prompt, model, path = arguments.prompt, arguments.model, arguments.file
    if path:
        output = arguments.output or os.path.splitext(path)[0] + ".results.jsonl"
        return batch.run(client, terminal, path, output, {"model": model, **arguments.fields})
    if prompt is None:
        prompt = one_prompt.ask("Prompt: ")
        # The server refuses a task without a prompt, whatever its model.
        if prompt and not model:
            model = one_prompt.ask("Model (empty for the server's default): ")
    elif prompt == "-":
        prompt = sys.stdin.read()
    fields = {"model": model, **arguments.fields, "prompt": prompt}
    return one_prompt.run(client, terminal, fields)


def _list(client: ManageClient, terminal: Terminal) -> int:
    tasks, has_more = client.list_tasks(MAX_LISTED)
    encoding = sys.stdout.encoding or "utf-8"
    for line in format_tasks(tasks, columns_of(sys.stdout, PIPE_COLUMNS), encoding=encoding):
        print_line(line)
    if has_more:
        terminal.say(f"These are the newest {len(tasks)} tasks.")
    return 0


def _cancel(client: ManageClient, terminal: Terminal, task_id: int) -> int:
    """Cancel a task that is not final: older servers would erase another."""
    status, body = client.get_result(task_id, 0)
    if status == 202 and client.cancel(task_id):
        terminal.say(f"Cancelled task {task_id}.")
        return 0
    if status == 202:  # It has ended since.
        status, body = client.get_result(task_id, 0)
    state = "completed" if "result" in body else read_reason(body)
    terminal.say(f"test.py: {state}" if status == 404 else
                 f"test.py: Task {task_id} has already ended: {state}")
    return 1


def _run_program() -> Any:
    """Run main(); a pipe that is closed while --help or an answer is printed is no error."""
    status: Any = 0
    try:
        raise_on_stop_signal()
        try:
            status = main()
        except SystemExit as ended:
            status = ended.code
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return exit_status(interrupt)
    except BrokenPipeError:
        return status or BROKEN_PIPE_STATUS
    except OSError as error:
        print_error(f"test.py: {describe_error(error)}")
        return status or 1
    finally:
        settle_streams()
    return status


if __name__ == "__main__":
    sys.exit(_run_program())
