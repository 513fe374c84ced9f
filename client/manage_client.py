"""Submits a prompt to the Manage Server and shows the answer as it is written.

It knows config.py and HTTP; client/batch.py adds `--file`.
From Python: `submit_task(prompt, model)` and `wait_for_result(task_id)`.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import threading
import time
import uuid
from typing import Any, Dict, Iterable, Iterator, NoReturn, Optional, Sequence, TextIO, Tuple

import requests
import urllib3

import config

Json = Dict[str, Any]
Answer = Tuple[int, Json]  # HTTP status and body

WAIT_SECONDS = 25  # that the server may hold a request
TERMINAL_WAIT_SECONDS = 1  # where somebody watches the seconds go by
SHORT_ANSWER_SECONDS = 0.5  # an answer before this was not held: do not hammer
STREAM_TIMEOUT_SECONDS = 30  # the server writes something every 10
RECONNECT_SECONDS = 1
MAX_RETRY_AFTER_SECONDS = 3600
NOT_FOUND = "Task not found."
ENDINGS = ("completed", "failed", "cancelled", "gone")


class TaskError(Exception):
    """One sentence, about an answer with this HTTP status; 0 when there was none."""

    def __init__(self, sentence: str, status: int, retry_after_seconds: int = 0) -> None:
        super().__init__(" ".join(sentence.split()))
        self.retry_after_seconds = min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
        self.may_pass = status in (0, 429) or status >= 500


def submit_task(
    prompt: str, model: Optional[str] = None, server_url: Optional[str] = None, **fields: Any
) -> int:
    """The new task's id. `fields` are further ones of POST /submit. Raises TaskError."""
    with _connect(server_url) as server:
        return int(server.submit({"prompt": prompt, "model": model, **fields})["task_id"])


def wait_for_result(task_id: int, server_url: Optional[str] = None) -> str:
    """The answer, however long it takes. Raises TaskError when there will be none."""
    with _connect(server_url) as server:
        return server.result(task_id, WAIT_SECONDS)


def _connect(server_url: Optional[str]) -> contextlib.closing[ManageServer]:
    settings = config.Settings.from_environ(config.TEST)
    url = server_url or settings.manage_server_url
    return contextlib.closing(ManageServer(url, settings.user_token))


class Terminal:
    """The answer goes to stdout; to stderr what is said, and if it is a terminal, what goes on."""

    def __init__(self, out: Optional[TextIO] = None, err: Optional[TextIO] = None) -> None:
        self.lock = threading.RLock()
        self.shows_more = err is not None and err.isatty()
        self._out, self._err = out, err
        self._unfinished: Optional[TextIO] = None  # the cursor is in a line of this

    @property
    def is_in_answer(self) -> bool:
        return self._unfinished is not None

    def show(self, text: str = "") -> None:
        """A line that is updated in place, and gone once there is something else."""
        with self.lock:
            if self._err and self.shows_more and not self.is_in_answer:
                width = (os.get_terminal_size(self._err.fileno()).columns or 80) - 1
                self._err.write(f"\r{text[:width]:{width}}\r{text[:width]}")
                self._err.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        with self.lock:
            self.end_line()
            self.show()
            if self._err:
                print(text, file=self._err, flush=True)

    def write(self, text: str, is_thinking: bool = False) -> None:
        """A part of the answer, or of the thinking before it."""
        stream = self._err if is_thinking else self._out
        if stream is None or (is_thinking and not self.shows_more):
            return
        with self.lock:
            if self._unfinished is not stream:
                self.end_line()
                self.show()
            stream.write(f"\033[2m{text}\033[0m" if is_thinking else text)
            stream.flush()
            self._unfinished = stream

    def end_line(self) -> None:
        with self.lock:
            if self._unfinished:
                print(file=self._unfinished, flush=True)
            self._unfinished = None


class ManageServer:
    """Its routes over kept-alive connections. An outage is waited out once it was reached."""

    def __init__(self, url: str, user_token: str, terminal: Optional[Terminal] = None) -> None:
        self.url = url
        self.has_token = bool(user_token)
        self.terminal = terminal or Terminal()
        self._session = _session(url, user_token)
        self.close = self._session.close
        self._was_reached = False
        self._pause_seconds = SHORT_ANSWER_SECONDS

    def submit(self, fields: Json, refusals: Sequence[int] = ()) -> Json:
        """The task_id; or the error, when it came with one of the statuses.

        When the answer is lost, it is submitted again with the same key, and is still one task.
        """
        sent = {key: value for key, value in fields.items() if value or key != "model"}
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return self._ask_patiently(
            "POST", "/submit", 60, (200, *refusals), json=sent, headers=key
        )[1]

    def look(self, task_id: int, wait_seconds: int) -> Answer:
        """GET /result: 200 when final, 202 when not so after `wait_seconds`, 404 when unknown."""
        path = f"/result/{task_id}" + (f"?wait={wait_seconds}" if wait_seconds else "")
        began = time.monotonic()
        response, body = self._ask_patiently("GET", path, wait_seconds + 30, (200, 202, 404))
        status = response.status_code
        if status != 202 or time.monotonic() - began >= SHORT_ANSWER_SECONDS:
            self._pause_seconds = SHORT_ANSWER_SECONDS
        elif wait_seconds:
            time.sleep(self._pause_seconds)
            self._pause_seconds = min(self._pause_seconds * 1.5, 5)
        return status, body

    def result(self, task_id: int, wait_seconds: int) -> str:
        """What GET /result gives in the end."""
        status, body = self.look(task_id, wait_seconds)
        while status == 202:
            self.terminal.show(waiting_for(body))
            status, body = self.look(task_id, wait_seconds)
        if "result" not in body:
            raise refusal(status, body)
        return str(body["result"])

    def events(self, task_id: int) -> Iterator[Tuple[str, Json]]:
        """Names and data of GET /result/<id>/stream, up to the one that says how it ended.

        Goes on where a broken connection ended. None come from a server that has no streams.
        """
        headers: Dict[str, str] = {}
        while True:
            response, body = self._ask_patiently(
                "GET", f"/result/{task_id}/stream", STREAM_TIMEOUT_SECONDS, (200, 404),
                headers=headers, stream=True,
            )
            if body.get("error") == NOT_FOUND:
                raise refusal(404, body)
            if body:
                return
            with contextlib.suppress(requests.RequestException), response:
                for name, event_id, data in _events(_lines(response)):
                    if event_id:
                        headers["Last-Event-ID"] = event_id
                    yield name, data
                    if name in ENDINGS:
                        return
            time.sleep(RECONNECT_SECONDS)

    def cancel(self, task_id: int) -> bool:
        """Whether it will not go on; says why it may."""
        try:
            response, body = self.ask("DELETE", f"/result/{task_id}", 10)
        except TaskError as error:
            self.terminal.say(str(error))
            return False
        is_over = response.status_code == 200 or body.get("error") == NOT_FOUND
        if not is_over:
            self.terminal.say(str(refusal(response.status_code, body)))
        return is_over

    def ask(
        self, method: str, path: str, timeout_seconds: int, **how: Any
    ) -> Tuple[requests.Response, Json]:
        """The answer and its body; that of a stream is empty, as it has still to be read.

        Raises TaskError for no answer, for one that is not a Manage Server's, and for one that
        may be another if asked again.
        """
        try:
            response = self._session.request(
                method, self.url + path, timeout=(10, timeout_seconds),
                allow_redirects=False, **how,  # a redirected POST would become a GET
            )
            if response.headers.get("Content-Type", "").startswith("text/event-stream"):
                return response, {}
            body = _json_object(response.content)
        except requests.RequestException as error:
            self._not_answered(error)
        status = response.status_code
        if ("task_id" if status < 300 else "error") not in body:
            raise TaskError(f"No Manage Server answers at {self.url}, but something else, "
                            f"with status {status}: is the URL right?", status)
        self._was_reached = True
        retry_after = response.headers.get("Retry-After", "")
        refused = refusal(status, body, int(retry_after) if retry_after.isdigit() else 0)
        if refused.may_pass:
            raise refused
        return response, body

    def _not_answered(self, error: requests.RequestException) -> NoReturn:
        cause = error.args[0] if error.args else None
        if isinstance(error, requests.ReadTimeout) or isinstance(
                cause, (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError)):
            self._was_reached = True  # there was a connection: only the answer is lost
        why = (str(error) if isinstance(error, requests.exceptions.SSLError)
               else "is `python manage_server.py` running?")
        raise TaskError(f"The Manage Server does not answer at {self.url}: {why}", 0) from None

    def _ask_patiently(
        self, method: str, path: str, timeout_seconds: int, statuses: Sequence[int], **how: Any
    ) -> Tuple[requests.Response, Json]:
        """ask(), again while it fails with what may pass, once the server was reached.

        Raises TaskError also for other statuses than these.
        """
        pause_seconds, said = 1, False
        while True:
            try:
                answer = self.ask(method, path, timeout_seconds, **how)
                break
            except TaskError as error:
                if not error.may_pass or not self._was_reached:
                    raise
                if error.retry_after_seconds:
                    self.terminal.show(str(error))
                elif not said:
                    self.terminal.say(f"{error} Trying again until it answers.")
                    said = True
                time.sleep(error.retry_after_seconds or pause_seconds)
                pause_seconds = min(pause_seconds * 2, 30)
        if said:
            self.terminal.say("The Manage Server answers again.")
        if answer[0].status_code not in statuses:
            raise refusal(answer[0].status_code, answer[1])
        return answer


def _session(url: str, user_token: str) -> requests.Session:
    """A session that looks at the environment once; at each request, that takes 1 ms."""
    session = requests.Session()
    session.trust_env = False
    session.proxies = requests.utils.get_environ_proxies(url)
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    session.verify = bundle or True
    if user_token:
        if not (user_token.isascii() and user_token.isprintable()):
            raise TaskError("USER_TOKEN has a character that no token has.", 401)
        session.headers["Authorization"] = f"Bearer {user_token.strip()}"
    return session


def _lines(response: requests.Response) -> Iterator[bytes]:
    """The lines of a body as they come; without chunks, only byte by byte are there no delays."""
    is_chunked = response.headers.get("Transfer-Encoding") == "chunked"
    yield from response.iter_lines(chunk_size=512 if is_chunked else 1)


def _events(lines: Iterable[bytes]) -> Iterator[Tuple[str, str, Json]]:
    """Name, id and data of server-sent events, whose data is a JSON object in one line."""
    fields: Dict[str, str] = {}
    for line in lines:
        key, _, value = line.decode("utf-8", "replace").partition(":")
        if line:
            fields[key] = value.strip()
            continue
        if "data" in fields:
            data = _json_object(fields["data"].encode())
            yield fields.get("event", ""), fields.get("id", ""), data
        fields = {}


def _json_object(data: bytes) -> Json:
    """The object, or an empty one for anything else."""
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    return {}


def refusal(status: int, body: Json, retry_after_seconds: int = 0) -> TaskError:
    """Why there is no result, or what else was wanted."""
    reason = str(body.get("error") or body.get("status") or "The server gives no reason.")
    if status in (401, 403):
        reason += " USER_TOKEN sets the token."
    return TaskError(reason, status, retry_after_seconds)


def waiting_for(body: Json) -> str:
    """A 202 in words; each key may be missing, or null."""
    text = str(body.get("state") or "waiting")
    what, seen = body.get("waiting_for") or "its turn", body.get("worker_seen_seconds")
    if what.startswith("a worker"):
        since = "none was seen yet" if seen is None else f"last seen {_duration(seen)} ago"
        return f"waiting for {what} ({since})"
    if what != "its turn":
        return f"{text}, in {what}"
    if body.get("running_seconds") is not None:
        text += f" for {body['running_seconds']:.0f} s"
        text += f" (attempt {body['attempt']})" * ((body.get("attempt") or 1) > 1)
    if body.get("queue_position"):
        text += f", place {body['queue_position']}"
    if body.get("eta_seconds"):
        text += f", about {_duration(body['eta_seconds'])} left"
    return text


def _duration(seconds: float) -> str:
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def _one(server: ManageServer, fields: Json) -> int:
    task_id = int(server.submit(fields)["task_id"])
    try:
        if sys.stdout.isatty():
            with _waiting_line(server, task_id):
                _show(server, task_id)
        else:
            wait_seconds = TERMINAL_WAIT_SECONDS if server.terminal.shows_more else WAIT_SECONDS
            # In one piece: the half of an answer that starts over is of no use in a pipe.
            server.terminal.write(server.result(task_id, wait_seconds))
    except KeyboardInterrupt:
        return _interrupted(server, task_id)
    server.terminal.end_line()
    server.terminal.show()
    return 0


def _show(server: ManageServer, task_id: int) -> None:
    """Write the answer as it comes."""
    terminal, has_begun = server.terminal, False
    for name, data in server.events(task_id):
        if name in ("", "thinking"):
            terminal.write(str(data.get(name or "text", "")), name == "thinking")
            has_begun = True
        elif name == "attempt" and has_begun:
            terminal.say("The answer starts over, in another attempt:")
            has_begun = False
        elif name == "completed":
            return
        elif name in ENDINGS:
            raise refusal(200, data)
    terminal.write(server.result(task_id, TERMINAL_WAIT_SECONDS))


@contextlib.contextmanager
def _waiting_line(server: ManageServer, task_id: int) -> Iterator[None]:
    """Meanwhile a thread says each second what the task waits for, until its answer begins."""
    terminal, is_over = server.terminal, threading.Event()

    def tick() -> None:
        while not is_over.is_set():
            body: Json = {}
            if not terminal.is_in_answer:
                with contextlib.suppress(TaskError):
                    body = server.ask("GET", f"/result/{task_id}", 10)[1]
            with terminal.lock:
                if body.get("state") and not is_over.is_set():
                    terminal.show(waiting_for(body))
            is_over.wait(1)

    if terminal.shows_more:
        threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _interrupted(server: ManageServer, task_id: int) -> int:
    """Cancels the task or leaves it running, as the user wants; at a second Ctrl-C, leaves it."""
    with contextlib.suppress(KeyboardInterrupt):
        wish = ""
        if sys.stdin.isatty() and server.terminal.shows_more:
            server.terminal.say("")
            wish = _ask("Cancel the task? [Y/n] ")
        if not wish.lower().startswith("n") and server.cancel(task_id):
            server.terminal.say(f"Task {task_id} is cancelled.")
            return 130
    header = " -H \"Authorization: Bearer $USER_TOKEN\"" * server.has_token
    server.terminal.say(f"Task {task_id} goes on. To get its result later:\n"
                        f"  curl{header} {server.url}/result/{task_id}")
    return 130


def _ask(question: str) -> str:
    """On stderr, so that stdout holds nothing but the answer."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _fields(text: str) -> Json:
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
        if isinstance(value, dict):
            return value
    raise argparse.ArgumentTypeError("must be a JSON object, such as '{\"think\": true}'")


def _parser() -> argparse.ArgumentParser:
    parser = config.make_parser(
        config.TEST, "Submit a prompt, or a file of them, and wait. Without either, it asks."
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; - reads it from stdin")
    parser.add_argument("--model", help="for prompts that name none (the server's default)")
    parser.add_argument("--fields", type=_fields, default={},
                        help="further fields of POST /submit, as a JSON object")
    parser.add_argument("--file", help="prompts, one a line; in a .jsonl file, objects with the "
                                       "fields of POST /submit")
    parser.add_argument("--output", help="answers to --file, as JSON lines; when it exists, only "
                                         "what it lacks and what failed is asked (the file's "
                                         "name with .results.jsonl)")
    return parser


def _run(server: ManageServer, arguments: argparse.Namespace) -> int:
    prompt, model, path = arguments.prompt, arguments.model, arguments.file
    if path:
        from client import batch
        output = arguments.output or os.path.splitext(path)[0] + ".results.jsonl"
        return batch.run(server, path, output, {"model": model, **arguments.fields})
    if prompt is None:
        prompt = _ask("Prompt: ")
        model = model or _ask("Model (empty for the server's default): ")
    elif prompt == "-":
        prompt = sys.stdin.read()
    return _one(server, {"model": model, **arguments.fields, "prompt": prompt})


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = _parser()
    settings, arguments = config.load(parser, argv)
    if (arguments.file and arguments.prompt is not None) or (
            arguments.output and not arguments.file):
        parser.error("give either a prompt, or --file and perhaps --output")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    terminal = Terminal(sys.stdout, sys.stderr)
    try:
        with contextlib.closing(
            ManageServer(settings.manage_server_url, settings.user_token, terminal)
        ) as server:
            return _run(server, arguments)
    except (TaskError, OSError) as error:
        terminal.say(f"test.py: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.say("Stopped.")
        return 130
