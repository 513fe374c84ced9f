"""Many prompts from a file, few of them at once, and answers in a file that a later run goes on
with; it knows no HTTP but statuses.

Each submission has a random key, not one that a later run would use again: that would give a
failed or cancelled task once more. So what was in flight when a run was killed is asked again.
"""
from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Optional, Sequence, Union

if TYPE_CHECKING:
    from client.manage_client import ManageServer, Terminal

Json = Dict[str, Any]

WAIT_SECONDS = 5  # for the oldest in flight, before the others are looked at
MAX_IN_FLIGHT = 32  # other users queue behind these, and a killed run asks them again
LINE_STATUSES = (400, 413, 422)  # refuse one line; any other refusal would hit them all
RECORD_START = b'{"line": '
RESERVED = {"line", "task_id", "result", "error"}


def run(server: ManageServer, path: str, output: str, common: Json) -> int:
    """Asks what has no answer in the output yet; what failed in an earlier run is asked again.

    `common` are the fields of prompts that have none of their own. Gives the exit status.
    """
    try:
        lines = _read_prompts(path, common)
        written = _read_answers(output, lines) if os.path.isfile(output) else []
        _write_answers(output, "a", [])  # cannot be written? Better known now
    except (OSError, ValueError) as error:
        wrong = isinstance(error, UnicodeDecodeError) and f"{path} is not text in UTF-8."
        server.terminal.say(f"test.py: {wrong or error}")
        return 2
    todo = [line for line in lines if "result" not in line.outcome]
    if written:
        server.terminal.say(f"{len(lines) - len(todo)} of {len(lines)} are answered in {output}.")
    for line in todo:
        line.task_id, line.outcome = None, {}
    batch, began = _Batch(server, todo), time.monotonic()
    failed = 0
    try:
        while batch.todo or batch.window:
            server.terminal.show(_bar(lines, len(todo), time.monotonic() - began))
            finished = batch.step()
            _write_answers(output, "a", finished)
            written += [line.number for line in finished]
    except KeyboardInterrupt:
        batch.cancel()
        return 130
    finally:
        failed = _finish(output, lines, written, server.terminal)
    return 1 if failed else 0


@dataclasses.dataclass
class _Line:
    """One prompt of the input and what became of it: `result`, `error`, or nothing yet."""

    number: int
    fields: Json
    task_id: Optional[int] = None
    outcome: Json = dataclasses.field(default_factory=dict)

    def record(self) -> Json:
        record = {"line": self.number, "task_id": self.task_id, **self.fields, **self.outcome}
        record.pop("images", None)  # they would make the output huge
        return record


class _Batch:
    """Many prompts, few of them in flight."""

    def __init__(self, server: ManageServer, lines: Sequence[_Line]) -> None:
        self.server = server
        self.todo: Deque[_Line] = deque(lines)
        self.window: Deque[_Line] = deque()  # from the first unfinished to the last submitted
        self._newest_id = 0

    def step(self) -> List[_Line]:
        """Submits, looks once, and returns the lines that are finished, as are all before them."""
        for _ in range(min(MAX_IN_FLIGHT - len(self._open()), len(self.todo))):
            self.window.append(self.todo.popleft())
            self._submit(self.window[-1])
        self._look()
        finished = []
        while self.window and self.window[0].outcome:
            finished.append(self.window.popleft())
        return finished

    def cancel(self) -> None:
        """Cancels what is in flight, as far as the server can be reached."""
        for line in self._open():
            if line.task_id is not None and not self.server.cancel(line.task_id):
                return

    def _open(self) -> List[_Line]:
        return [line for line in self.window if not line.outcome]

    def _submit(self, line: _Line) -> None:
        body = self.server.submit(line.fields, LINE_STATUSES)
        if "task_id" not in body:
            line.outcome = {"error": _reason(body)}
            return
        task_id = int(body["task_id"])
        if task_id <= self._newest_id:  # ids count up: it began anew, and gives our ids to others
            for lost in self._open():
                if lost is not line:
                    lost.outcome = {"error": "The Manage Server restarted and lost this task."}
        line.task_id = self._newest_id = task_id

    def _look(self) -> None:
        """Waits for the oldest; when that takes long, looks what became of the others."""
        wait_seconds = WAIT_SECONDS
        for line in self._open():
            assert line.task_id is not None
            status, body = self.server.look(line.task_id, wait_seconds)
            if status != 202:
                line.outcome = ({"result": body["result"]} if "result" in body
                                else {"error": _reason(body)})
                if wait_seconds:
                    return
            wait_seconds = 0


def _reason(body: Json) -> str:
    return str(body.get("error") or "The server gives no reason.")


def _read_prompts(path: str, common: Json) -> List[_Line]:
    """Raises OSError, and ValueError with a sentence for the first bad line."""
    lines = []
    with open(path, encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            fields = _json_object(text) if path.endswith(".jsonl") else {"prompt": text.strip()}
            prompt = fields.get("prompt")
            if text.strip():
                if not isinstance(prompt, str) or not prompt.strip() or (
                        RESERVED & {*common, *fields}):
                    raise ValueError(
                        f'{path}, line {number}: must be a JSON object with a "prompt" and '
                        f"further fields of POST /submit, not {text.strip()[:60]!r}."
                    )
                model = fields.get("model") or common.get("model")
                fields = {"prompt": prompt, "model": None, **common, **fields}
                lines.append(_Line(number, {**fields, "model": model, "prompt": prompt}))
    return lines


def _read_answers(path: str, lines: Sequence[_Line]) -> List[int]:
    """Gives the lines their earlier outcomes; returns their numbers in the order of the file.

    Cuts off a last line that a kill tore. Raises ValueError for answers to anything else.
    """
    numbers: List[int] = []
    by_number = {line.number: line for line in lines}
    with open(path, "rb+") as file:
        for raw in file:
            if not raw.endswith(b"\n") and raw.startswith(RECORD_START[:len(raw)]):
                file.truncate(os.path.getsize(path) - len(raw))
                break
            record = _json_object(raw)
            line = by_number.get(record["line"]) if type(record.get("line")) is int else None
            if line:
                line.task_id = record.get("task_id")
                line.outcome = {key: record[key] for key in ("result", "error") if key in record}
            if not line or not line.outcome or line.record() != record:
                raise ValueError(
                    f"{path}, line {len(numbers) + 1}: answers another prompt, model or options "
                    "than this input's; name another --output, or delete it."
                )
            numbers.append(line.number)
    return numbers


def _json_object(text: Union[str, bytes]) -> Json:
    """The object, or an empty one for anything else, one with a NaN included."""
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
        return value if isinstance(value, dict) else {}
    return {}


def _write_answers(path: str, mode: str, lines: Sequence[_Line]) -> None:
    # A lone surrogate, which UTF-8 cannot hold, is written as JSON's own escape for it.
    with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(line.record(), ensure_ascii=False) + "\n" for line in lines)


def _finish(output: str, lines: List[_Line], written: List[int], terminal: Terminal) -> int:
    """Says how it went, and returns how many failed.

    Puts the output in the order of the input, where what was asked again came last so far.
    """
    done = [line for line in lines if line.outcome]
    if written != [line.number for line in done]:
        _write_answers(output + ".new", "w", done)
        os.replace(output + ".new", os.path.realpath(output))
    failed = sum("error" in line.outcome for line in done)
    answered = len(done) - failed
    terminal.say(f"{answered} of {len(lines)} answered, {failed} failed, see {output}."
                 + " Run the same again to ask the rest." * (answered < len(lines)))
    return failed


def _bar(lines: Sequence[_Line], todo: int, seconds: float) -> str:
    done = sum(bool(line.outcome) for line in lines)
    failed = sum("error" in line.outcome for line in lines)
    left, done_now = len(lines) - done, todo - (len(lines) - done)
    text = f"[{'#' * (20 * done // len(lines)):.<20}] {done} of {len(lines)} done, {failed} failed"
    if done_now:
        text += f", {datetime.timedelta(seconds=int(seconds / done_now * left))} left"
    return text
