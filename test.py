"""Submits prompts to the Manage Server, waits, and shows the answers; knows config.py and HTTP.

From Python: `submit_task(prompt, model)` and `wait_for_result(task_id)`. With `--file`, a prompt
is submitted again when the answer to its submission is lost on the way, so it may run twice.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import json
import os
import sys
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, TextIO, Tuple, Union

import requests

import config

Json = Dict[str, Any]
Answer = Tuple[int, Json]  # HTTP status and body

WAIT_SECONDS = 25  # that the server may hold a request
TERMINAL_WAIT_SECONDS = 1  # where somebody watches the seconds go by
BATCH_WAIT_SECONDS = 5  # for the oldest in flight, before the others are looked at
SHORT_ANSWER_SECONDS = 0.5  # an answer before this was not held: do not hammer
MAX_IN_FLIGHT = 32  # other users queue behind these, and a killed run asks them again
LINE_STATUSES = (400, 413, 422)  # refuse one line; any other refusal would hit them all
RECORD_START = b'{"line": '
RESERVED = {"line", "task_id", "result", "error"}


class TaskError(Exception):
    """One sentence; `status` is the HTTP status that came with it, 0 when nothing came."""

    def __init__(self, sentence: str, status: int, retry_after_seconds: int = 0) -> None:
        super().__init__(" ".join(sentence.split()))
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.may_pass = status in (0, 429) or status >= 500


def submit_task(
    prompt: str, model: Optional[str] = None, server_url: Optional[str] = None, **fields: Any
) -> int:
    """The new task's id. `fields` are further ones of POST /submit. Raises TaskError."""
    with contextlib.closing(_ManageServer(server_url)) as server:
        return server.submit({"prompt": prompt, "model": model, **fields})


def wait_for_result(task_id: int, server_url: Optional[str] = None) -> str:
    """The answer, however long it takes. Raises TaskError when there will be none."""
    with contextlib.closing(_ManageServer(server_url)) as server:
        return server.follow(task_id)


class _StatusLine:
    """A line updated in place on a terminal, nothing elsewhere; what is said stays."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self.stream = stream
        self.on_terminal = stream is not None and stream.isatty()

    def show(self, text: str = "") -> None:
        if self.stream and self.on_terminal:
            width = (os.get_terminal_size(self.stream.fileno()).columns or 80) - 1
            self.stream.write(f"\r{text[:width]:{width}}" + ("" if text else "\r"))
            self.stream.flush()

    def say(self, text: str) -> None:
        self.show()
        if self.stream:
            print(text, file=self.stream, flush=True)


class _ManageServer:
    """Its routes over one kept-alive connection. An outage is waited out once it has answered."""

    def __init__(self, url: Optional[str] = None, status: Optional[_StatusLine] = None) -> None:
        self.url = url or config.Settings.from_environ(config.TEST).manage_server_url
        self.status = status or _StatusLine()
        self._session = _session(self.url)
        self.close = self._session.close
        self._answered = False
        self._pause_seconds = SHORT_ANSWER_SECONDS

    def submit(self, fields: Json) -> int:
        sent = {key: value for key, value in fields.items() if value or key != "model"}
        return int(self._request("POST", "/submit", 60, sent)[1]["task_id"])

    def follow(
        self, task_id: int, wait_seconds: int = WAIT_SECONDS, model: Optional[str] = None
    ) -> str:
        status, body = self.look(task_id, wait_seconds)
        while status == 202:
            self.status.show(_waiting_for(body, model))
            status, body = self.look(task_id, wait_seconds)
        if "result" not in body:
            raise TaskError(_reason(body), status)
        return str(body["result"])

    def look(self, task_id: int, wait_seconds: int) -> Answer:
        """GET /result: 200 when the task is final, 202 when it is not after `wait_seconds`."""
        path = f"/result/{task_id}" + (f"?wait={wait_seconds}" if wait_seconds else "")
        began = time.monotonic()
        status, body = self.patiently(lambda: self._request("GET", path, wait_seconds + 30))
        if status == 200 or time.monotonic() - began >= SHORT_ANSWER_SECONDS:
            self._pause_seconds = SHORT_ANSWER_SECONDS
        elif wait_seconds:
            time.sleep(self._pause_seconds)
            self._pause_seconds = min(self._pause_seconds * 1.5, 5)
        return status, body

    def patiently(self, call: Callable[[], Any]) -> Any:
        """call(), again while it fails with what may pass, if the server has ever answered."""
        pause_seconds, said = 1, False
        while True:
            try:
                answer = call()
                break
            except TaskError as error:
                if not error.may_pass or not self._answered:
                    raise
                if error.retry_after_seconds:
                    self.status.show(str(error))
                elif not said:
                    self.status.say(f"{error} Trying again until it answers.")
                    said = True
                time.sleep(error.retry_after_seconds or pause_seconds)
                pause_seconds = min(pause_seconds * 2, 30)
        if said:
            self.status.say("The Manage Server answers again.")
        return answer

    def _request(
        self, method: str, path: str, timeout_seconds: int, content: Optional[Json] = None
    ) -> Answer:
        try:
            response = self._session.request(
                method, self.url + path, json=content, timeout=(10, timeout_seconds),
                allow_redirects=False,  # a redirected POST would become a GET
            )
        except requests.RequestException as error:
            why = (str(error) if isinstance(error, requests.exceptions.SSLError)
                   else "is `python manage_server.py` running?")
            raise TaskError(f"The Manage Server does not answer at {self.url}: {why}", 0) from None
        status, body = response.status_code, None
        with contextlib.suppress(ValueError):
            body = response.json()
        if not isinstance(body, dict) or not ("task_id" in body or "error" in body):
            raise TaskError(f"No Manage Server answers at {self.url}, but something else, "
                            f"with status {status}: is the URL right?", status)
        self._answered = True
        if status not in (200, 202) or "task_id" not in body:
            retry_after = response.headers.get("Retry-After", "")
            seconds = min(int(retry_after), 3600) if retry_after.isdigit() else 0
            raise TaskError(_reason(body), status, seconds)
        return status, body


def _session(url: str) -> requests.Session:
    """A session that looks at the environment once; at each request, that takes 1 ms."""
    session = requests.Session()
    session.trust_env = False
    session.proxies = requests.utils.get_environ_proxies(url)
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    session.verify = bundle or True
    return session


def _reason(body: Json) -> str:
    return str(body.get("error") or body.get("status") or "The server gives no reason.")


def _waiting_for(body: Json, model: Optional[str]) -> str:
    """A 202 in words; each key may be missing."""
    text = str(body.get("state") or "waiting")
    if body.get("queue_position"):
        text += f", place {body['queue_position']} in the queue"
    if isinstance(body.get("running_seconds"), (int, float)):
        text += f" for {body['running_seconds']:.0f} s"
    if isinstance(body.get("attempt"), int) and body["attempt"] > 1:
        text += f" (attempt {body['attempt']})"
    if body.get("model_available") is False and body.get("state") != "running":
        name = body.get("model") or model
        text += ", no connected worker has " + (f"model {name}" if name else "the default model")
    return text


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

    def __init__(self, server: _ManageServer, lines: Sequence[_Line]) -> None:
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

    def _open(self) -> List[_Line]:
        return [line for line in self.window if not line.outcome]

    def _submit(self, line: _Line) -> None:
        try:
            task_id = self.server.patiently(lambda: self.server.submit(line.fields))
        except TaskError as error:
            if error.status not in LINE_STATUSES:
                raise
            line.outcome = {"error": str(error)}
            return
        if task_id <= self._newest_id:  # ids count up: it began anew, and gives our ids to others
            for lost in self._open():
                if lost is not line:
                    lost.outcome = {"error": "The Manage Server restarted and lost this task."}
        line.task_id = self._newest_id = task_id

    def _look(self) -> None:
        """Waits for the oldest; when that takes long, looks what became of the others."""
        wait_seconds = BATCH_WAIT_SECONDS
        for line in self._open():
            assert line.task_id is not None
            try:
                status, body = self.server.look(line.task_id, wait_seconds)
            except TaskError as error:
                if error.status != 404:
                    raise
                status, body = error.status, {"error": str(error)}
            if status != 202:
                line.outcome = ({"result": body["result"]} if "result" in body
                                else {"error": _reason(body)})
                if wait_seconds:
                    return
            wait_seconds = 0


def _read_prompts(path: str, model: Optional[str]) -> List[_Line]:
    """Raises OSError, and ValueError with a sentence for the first bad line."""
    lines = []
    with open(path, encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            fields = _json_object(text) if path.endswith(".jsonl") else {"prompt": text.strip()}
            prompt = fields.get("prompt")
            if text.strip():
                if not isinstance(prompt, str) or not prompt.strip() or RESERVED & set(fields):
                    raise ValueError(
                        f'{path}, line {number}: must be a JSON object with a "prompt" and '
                        f"further fields of POST /submit, not {text.strip()[:60]!r}."
                    )
                fields = {"prompt": prompt, "model": None, **fields}
                lines.append(_Line(number, {**fields, "model": fields["model"] or model}))
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


def _many(server: _ManageServer, path: str, output: str, model: Optional[str]) -> int:
    """Asks what has no answer in the output yet; what failed in an earlier run is asked again."""
    try:
        lines = _read_prompts(path, model)
        written = _read_answers(output, lines) if os.path.isfile(output) else []
        _write_answers(output, "a", [])  # cannot be written? Better known now
    except (OSError, ValueError) as error:
        wrong = isinstance(error, UnicodeDecodeError) and f"{path} is not text in UTF-8."
        server.status.say(f"test.py: {wrong or error}")
        return 2
    todo = [line for line in lines if "result" not in line.outcome]
    if written:
        server.status.say(f"{len(lines) - len(todo)} of {len(lines)} are answered in {output}.")
    for line in todo:
        line.task_id, line.outcome = None, {}
    batch, began = _Batch(server, todo), time.monotonic()
    try:
        while batch.todo or batch.window:
            server.status.show(_bar(lines, len(todo), time.monotonic() - began))
            finished = batch.step()
            _write_answers(output, "a", finished)
            written += [line.number for line in finished]
    finally:
        failed = _finish(output, lines, written, server.status)
    return 1 if failed else 0


def _finish(output: str, lines: List[_Line], written: List[int], status: _StatusLine) -> int:
    """Says how it went, and returns how many failed.

    Puts the output in the order of the input, where what was asked again came last so far.
    """
    done = [line for line in lines if line.outcome]
    if written != [line.number for line in done]:
        _write_answers(output + ".new", "w", done)
        os.replace(output + ".new", os.path.realpath(output))
    failed = sum("error" in line.outcome for line in done)
    answered = len(done) - failed
    status.say(f"{answered} of {len(lines)} answered, {failed} failed, see {output}."
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


def _one(server: _ManageServer, prompt: str, model: Optional[str]) -> int:
    task_id = server.submit({"prompt": prompt, "model": model})
    wait_seconds = TERMINAL_WAIT_SECONDS if server.status.on_terminal else WAIT_SECONDS
    try:
        answer = server.follow(task_id, wait_seconds, model)
    except KeyboardInterrupt:
        server.status.say(f"Task {task_id} goes on; its answer: {server.url}/result/{task_id}")
        raise
    server.status.show()
    print(answer, flush=True)
    return 0


def _ask(question: str) -> str:
    """On stderr, so that stdout holds nothing but the answer."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _parser() -> argparse.ArgumentParser:
    parser = config.make_parser(
        config.TEST, "Submit a prompt, or a file of them, and wait. Without either, it asks."
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; - reads it from stdin")
    parser.add_argument("--model", help="for prompts that name none (the server's default)")
    parser.add_argument("--file", help="prompts, one a line; in a .jsonl file, objects with the "
                                       "fields of POST /submit")
    parser.add_argument("--output", help="answers to --file, as JSON lines; when it exists, only "
                                         "what it lacks and what failed is asked (the file's "
                                         "name with .results.jsonl)")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = _parser()
    settings, arguments = config.load(parser, argv)
    prompt, model, path = arguments.prompt, arguments.model, arguments.file
    if (path and prompt is not None) or (arguments.output and not path):
        parser.error("give either a prompt, or --file and perhaps --output")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    status = _StatusLine(sys.stderr)
    try:
        with contextlib.closing(_ManageServer(settings.manage_server_url, status)) as server:
            if path:
                output = arguments.output or os.path.splitext(path)[0] + ".results.jsonl"
                return _many(server, path, output, model)
            if prompt is None:
                prompt = _ask("Prompt: ")
                model = model or _ask("Model (empty for the server's default): ")
            return _one(server, sys.stdin.read() if prompt == "-" else prompt, model)
    except (TaskError, OSError) as error:
        status.say(f"test.py: {error}")
        return 1
    except KeyboardInterrupt:
        status.say("Stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
