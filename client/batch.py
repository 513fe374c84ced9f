"""Many prompts from a file, a few in flight at a time, and their answers in another file.

A later run continues with that file. Each submission has a random Idempotency-Key: a key that
every run repeats would return a failed or cancelled task instead of trying it again. The price:
what a killed run had in flight is submitted again by the next run.
"""
from __future__ import annotations

import datetime
import time
from collections import deque
from typing import Any, Deque, Dict, List, Sequence

from client.batch_files import FileError, Prompt, read_files, rewrite, write_answers
from client.connection import read_reason
from client.errors import TaskError
from client.manage_client import ManageClient
from client.terminal import Terminal
from console.process import exit_status

Json = Dict[str, Any]

WAIT_SECONDS = 5  # How long to wait for the oldest task before checking the others.
MAX_IN_FLIGHT = 32  # Other users queue behind these, and a killed run wastes them.


def run(client: ManageClient, terminal: Terminal, path: str, output: str, defaults: Json) -> int:
    """Submit the prompts in `path` that have no answer in `output` yet. Return the exit status.

    A prompt that failed in an earlier run is submitted again. `defaults` are fields for prompts
    that don't set them. Raises FileError, before anything is submitted or when an answer can't be
    written, and TaskError.
    """
    prompts, written = read_files(path, output, defaults)
    pending = [prompt for prompt in prompts if "result" not in prompt.outcome]
    if written:
        answered = len(prompts) - len(pending)
        terminal.say(f"{output} already has {answered} of {len(prompts)} answers.")
    for prompt in pending:
        prompt.task_id, prompt.outcome = None, {}
    batch, started_at = _Batch(client, terminal, pending), time.monotonic()
    try:
        while not batch.is_finished:
            elapsed_seconds = time.monotonic() - started_at
            terminal.show_status(_progress_text(prompts, len(pending), elapsed_seconds))
            finished = batch.advance()
            write_answers(output, "a", finished)
            written += [prompt.line for prompt in finished]
    except KeyboardInterrupt as interrupt:
        batch.cancel()
        return exit_status(interrupt)
    except OSError as error:
        batch.cancel()
        raise FileError(f"{output}: {error.strerror or error}") from None
    finally:
        failed = _finish(terminal, output, prompts, written)
    return 1 if failed else 0


class _Batch:
    """Prompts on their way through the Manage Server, a few in flight at a time."""

    def __init__(self, client: ManageClient, terminal: Terminal, prompts: Sequence[Prompt]
                 ) -> None:
        self._client, self._terminal = client, terminal
        self._waiting: Deque[Prompt] = deque(prompts)
        self._window: Deque[Prompt] = deque()  # from the oldest unfinished to the last submitted
        self._newest_id = 0

    @property
    def is_finished(self) -> bool:
        return not self._waiting and not self._window

    def advance(self) -> List[Prompt]:
        """Submit and check; return the newly finished prompts that no unfinished one precedes."""
        for _ in range(min(MAX_IN_FLIGHT - len(self._in_flight()), len(self._waiting))):
            self._window.append(self._waiting.popleft())
            self._submit(self._window[-1])
        self._check()
        finished = []
        while self._window and self._window[0].outcome:
            finished.append(self._window.popleft())
        return finished

    def cancel(self) -> None:
        """Cancel what is in flight, until the server can't be reached."""
        try:
            for prompt in self._in_flight():
                if prompt.task_id is not None:
                    self._client.cancel(prompt.task_id)
        except TaskError as error:
            self._terminal.say(str(error))

    def _in_flight(self) -> List[Prompt]:
        return [prompt for prompt in self._window if not prompt.outcome]

    def _submit(self, prompt: Prompt) -> None:
        try:
            task_id = self._client.submit(prompt.fields)
        except TaskError as error:
            if not error.is_refusal:
                raise
            prompt.outcome, prompt.is_refused = {"error": str(error)}, True
            return
        # Ids only count up: one that does not is a restarted server's, which will soon give
        # other tasks the ids that these prompts have.
        if task_id <= self._newest_id:
            for lost in self._in_flight():
                if lost is not prompt:
                    lost.outcome = {"error": "The Manage Server restarted and lost this task."}
        prompt.task_id = self._newest_id = task_id

    def _check(self) -> None:
        """Wait for the oldest task. If that takes long, check all the others without waiting."""
        wait_seconds = WAIT_SECONDS
        for prompt in self._in_flight():
            assert prompt.task_id is not None
            status, body = self._client.get_result(prompt.task_id, wait_seconds)
            if status == 202:
                self._terminal.say_waiting_once(body)
            else:
                prompt.outcome = ({"result": body["result"]} if "result" in body
                                  else {"error": read_reason(body)})
                if wait_seconds:
                    return
            wait_seconds = 0


def _finish(terminal: Terminal, output: str, prompts: List[Prompt], written: List[int]) -> int:
    """Sort the output by the lines of the input, print a summary, return the number of failures.

    Until then, resubmitted prompts come last in the output.
    """
    done = [prompt for prompt in prompts if prompt.outcome]
    if written != [prompt.line for prompt in done]:
        try:
            rewrite(output, done, written)
        except OSError:  # The disk may be full; the answers in the file so far remain there.
            done = [prompt for prompt in prompts if prompt.line in written]
    failed = sum("error" in prompt.outcome for prompt in done)
    refused = sum(prompt.is_refused for prompt in done)
    answered = len(done) - failed
    text = f"{answered} of {len(prompts)} answered, {failed} failed. See {output}."
    if refused:
        text += (f" {refused} of them {'was' if refused == 1 else 'were'} refused and must be "
                 "changed first.")
    if answered + refused < len(prompts):
        text += " Run the same command again for the rest."
    terminal.say(text)
    return failed


def _progress_text(prompts: Sequence[Prompt], pending: int, elapsed_seconds: float) -> str:
    total, done = len(prompts), sum(bool(prompt.outcome) for prompt in prompts)
    failed = sum("error" in prompt.outcome for prompt in prompts)
    text = f"{done} of {total} done, {failed} failed"
    done_now = pending - (total - done)
    if done_now:
        left_seconds = int(elapsed_seconds / done_now * (total - done))
        text += f", {datetime.timedelta(seconds=left_seconds)} left"
    # The bar comes last, because a narrow window cuts off the end.
    return f"{text} [{'#' * (20 * done // total):.<20}]"
