"""The LLM Server: claims tasks from the Manage Server, has Ollama run them, delivers what came.

It dials out and nothing dials in. It knows HTTP and config.py, and nothing else of the
project: these two files, copied to the GPU machine, run. Hence it is long; it reads in this
order: Ollama, the Manage Server, what goes on between them.
"""
from __future__ import annotations

import bisect
import contextlib
import json
import logging
import math
import os
import queue
import random
import re
import signal
import socket
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

import requests
import urllib3

import config

log = logging.getLogger("llm_server")

# A dead worker is noticed within it.
ASKED_LEASE_SECONDS = 30
# Below the 60 seconds after which many proxies cut a silent request.
CLAIM_WAIT_SECONDS = 25
# While Ollama writes nothing: how soon a cancelled task is noticed.
HEARTBEAT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 10
ANSWER_TIMEOUT_SECONDS = 30
MODELS_FRESH_SECONDS = 10
MAX_MODELS = 1000
MAX_PAUSE_SECONDS = 10
# After an empty answer that came at once: the server holds no more requests.
NOT_HELD_PAUSE_SECONDS = 2
# After failures of Ollama in a row: it should not go through the whole queue.
MAX_FAILURES_PAUSE_SECONDS = 30
# How long running tasks may go on after SIGTERM before they are released.
GRACE_SECONDS = 20
# Characters in one progress request; a server takes at least a megabyte.
MAX_SENT_AT_ONCE = 100_000

# What Ollama says of the work in the last object of an answer.
METRICS = ("done_reason", "total_duration", "load_duration", "prompt_eval_count",
           "prompt_eval_duration", "eval_count", "eval_duration")

# JSON can have half a surrogate pair, which is no character, and which no server takes.
HALF_PAIR = re.compile("[\ud800-\udfff]")

Json = Dict[str, Any]


class Piece(NamedTuple):
    """A part of an answer; or of the thinking before it; or, with the last one, the metrics."""

    text: str
    thinking: str = ""
    metrics: Optional[Json] = None


class OllamaError(Exception):
    """Ollama did not answer the prompt; `retry` tells whether another attempt may help."""

    def __init__(self, message: str, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry


class OllamaDown(OllamaError):
    """Ollama cannot be reached; nothing was begun."""

    def __init__(self) -> None:
        super().__init__("Ollama cannot be reached.", retry=True)


class ServerDown(Exception):
    """The Manage Server cannot be reached, or something else answers in its place."""


class NotLetIn(Exception):
    """The Manage Server does not take this worker's token; to ask again would not help."""

    def __init__(self, url: str, error: str) -> None:
        self.reason = f"{error} WORKER_TOKEN sets the token."
        url = config.without_password(url)
        super().__init__(f"the Manage Server at {url} does not let this worker in: {self.reason}")


def call_ollama(model: str, prompt: str, fields: Optional[Json] = None) -> str:
    """Ollama's answer to a prompt. `fields` are further ones of /api/generate.

    Raises OllamaError. Source: docs/api.md in ollama/ollama, "Generate a completion".
    """
    settings = config.Settings.from_environ(config.LLM)
    ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds)
    pieces = ollama.generate({**(fields or {}), "model": model, "prompt": prompt})
    return "".join(piece.text for piece in pieces)


def check_for_task() -> Json:
    """Claim a task without waiting; an empty object when there is none. Raises ServerDown."""
    settings = config.Settings.from_environ(config.LLM)
    return ManageServer(settings).claim({"worker": settings.worker_name})


def send_result_to_azure(task_id: int, result: str, lease_id: str = "") -> bool:
    """Deliver a result, until the Manage Server has said what it thinks of it.

    True when it was accepted, False when the task is unknown or somebody else's.
    """
    settings = config.Settings.from_environ(config.LLM)
    outcome = {"task_id": task_id, "lease_id": lease_id or None, "result": result}
    return deliver(ManageServer(settings), outcome, Link("the Manage Server"), threading.Event())


class Ollama:
    """Ollama's HTTP API, for one thread at a time."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url
        self._timeout = (CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        # A proxy for the way out is not for a neighbour.
        self._session = make_session(proxies={})
        self._models: List[str] = []
        self._models_asked_at = -math.inf

    def models(self) -> List[str]:
        """The names of its models, as of the last seconds. Raises OllamaDown."""
        if time.monotonic() - self._models_asked_at > MODELS_FRESH_SECONDS:
            try:
                answer = self._session.get(f"{self.url}/api/tags", timeout=ANSWER_TIMEOUT_SECONDS)
                self._models = [str(model["name"]) for model in answer.json()["models"]]
            except (requests.RequestException, ValueError, KeyError, TypeError):
                raise OllamaDown() from None
            self._models_asked_at = time.monotonic()
        return self._models

    def generate(self, fields: Json, line: Optional[Line] = None) -> Iterator[Piece]:
        """The pieces of an answer as they come. Raises OllamaError.

        To hang up the line stops the generation, also before the first piece.
        """
        asked_at, self._models_asked_at = self._models_asked_at, -math.inf
        session = make_session(proxies={})
        for scheme in ("http://", "https://"):
            session.mount(scheme, line or Line())
        try:
            with session, session.post(
                f"{self.url}/api/generate", json={**fields, "stream": True}, stream=True,
                timeout=self._timeout,
            ) as response:
                if response.status_code != 200:
                    raise _refusal(response)
                yield from _pieces(response)
            self._models_asked_at = asked_at
        except requests.ConnectTimeout:
            raise OllamaDown() from None
        except requests.RequestException as error:
            raise _broken(error) from None


def _broken(error: requests.RequestException) -> OllamaError:
    cause = error.args[0] if error.args else None
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        return OllamaDown()
    # requests calls silence in the middle of a stream a ConnectionError.
    silence = (requests.Timeout, urllib3.exceptions.ReadTimeoutError)
    if isinstance(error, silence) or isinstance(cause, silence):
        return OllamaError("Ollama was silent for too long.", retry=True)
    return OllamaError("Ollama broke off.", retry=True)


def _refusal(response: requests.Response) -> OllamaError:
    try:
        message = _clean(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"Ollama answered with HTTP status {response.status_code}."
    return OllamaError(message, retry=response.status_code >= 500 or response.status_code == 429)


def _pieces(response: requests.Response) -> Iterator[Piece]:
    for line in response.iter_lines():
        if not line:
            continue
        try:
            part = json.loads(line)
            error, done = part.get("error"), part.get("done")
        except (ValueError, AttributeError):
            raise OllamaError("Ollama answered with what is no JSON object.", retry=True) from None
        if error:
            raise OllamaError(_clean(error), retry=True)
        metrics = {key: part[key] for key in METRICS if isinstance(part.get(key), (int, str))}
        yield Piece(_clean(part.get("response") or ""), _clean(part.get("thinking") or ""),
                    metrics if done else None)
        if done:
            return
    raise OllamaError("Ollama ended its answer before it was done.", retry=True)


def _clean(text: Any) -> str:
    return HALF_PAIR.sub("\ufffd", str(text))


class Line(requests.adapters.HTTPAdapter):
    """Connections that another thread can shut down, also while they wait for an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: List[socket.socket] = []
        self._is_hung_up = False
        super().__init__()

    def hang_up(self) -> None:
        with self._lock:
            self._is_hung_up = True
            for connected in self._sockets:
                # Closing would wait for the thread that reads.
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        line = self

        def watched(pool: Any) -> Any:
            class Connection(pool.ConnectionCls):  # type: ignore[misc]
                def connect(self) -> None:
                    super().connect()
                    with line._lock:
                        line._sockets.append(self.sock)
                    if line._is_hung_up:
                        line.hang_up()

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        classes = self.poolmanager.pool_classes_by_scheme
        self.poolmanager.pool_classes_by_scheme = {k: watched(v) for k, v in classes.items()}


class Generation(threading.Thread):
    """An answer of Ollama, read by a thread of its own; another can wait for it, or stop it."""

    def __init__(self, ollama: Ollama, fields: Json) -> None:
        super().__init__(name="generation", daemon=True)
        self._ollama = ollama
        self._fields = fields
        self._line = Line()
        self._news = threading.Condition()
        # Texts, whether each is thinking, and where each ends, in characters of all of them.
        self._texts: List[Tuple[str, bool]] = []
        self._ends: List[int] = []
        self._metrics: Json = {}
        self._error: Optional[BaseException] = None
        self._is_done = False

    def run(self) -> None:
        try:
            for piece in self._ollama.generate(self._fields, self._line):
                with self._news:
                    self._add(piece.thinking, True)
                    self._add(piece.text, False)
                    self._metrics = piece.metrics or {}
                    self._news.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._news:
                self._is_done = True
                self._news.notify_all()

    def wait(self, seconds: float, offset: float = math.inf) -> bool:
        """Whether it is done; once it is, or there is text after the offset, or the seconds are
        over."""
        with self._news:
            self._news.wait_for(lambda: self._is_done or self._length() > offset, seconds)
            return self._is_done

    def since(self, offset: int) -> Json:
        """Thinking, and text after it, from the offset on: as much as makes one request."""
        with self._news:
            most = offset + MAX_SENT_AT_ONCE
            first = bisect.bisect_right(self._ends, offset)
            last = bisect.bisect_left(self._ends, most) + 1
            said: Json = {}
            for (text, is_thinking), end in zip(self._texts[first:last], self._ends[first:last]):
                if is_thinking and "text" in said:
                    break
                start = end - len(text)
                key = "thinking" if is_thinking else "text"
                said.setdefault(key, []).append(text[max(0, offset - start):most - start])
            return {key: "".join(texts) for key, texts in said.items()}

    def outcome(self) -> Json:
        """The whole answer; raises OllamaError."""
        if self._error:
            raise self._error
        result = "".join(text for text, is_thinking in self._texts if not is_thinking)
        thinking = "".join(text for text, is_thinking in self._texts if is_thinking)
        return {"result": result, **({"thinking": thinking} if thinking else {}),
                "metrics": self._metrics}

    def stop(self) -> None:
        """Hang up, which makes Ollama stop."""
        self._line.hang_up()

    def _length(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _add(self, text: str, is_thinking: bool) -> None:
        if text:
            self._ends.append(self._length() + len(text))
            self._texts.append((text, is_thinking))


def make_session(proxies: Json) -> requests.Session:
    """A session that keeps its connection, and has asked the environment once for all."""
    session = requests.Session()
    session.trust_env = False
    session.proxies = proxies
    session.verify = os.getenv("REQUESTS_CA_BUNDLE") or os.getenv("CURL_CA_BUNDLE") or True
    return session


class ManageServer:
    """The worker's side of the protocol, for one thread at a time.

    All of it raises ServerDown, and NotLetIn.
    """

    def __init__(self, settings: config.Settings) -> None:
        self.url = settings.manage_server_url
        self._session = make_session(requests.utils.get_environ_proxies(self.url))
        self._session.headers["Content-Type"] = "application/json"
        if settings.worker_token:
            self._session.headers["Authorization"] = f"Bearer {settings.worker_token}"

    def claim(self, params: Json) -> Json:
        """A task, or an empty object."""
        status, body = self._ask("GET", "/task", float(params.get("wait", 0)), params=params)
        if status != 200 or (body and not {"task_id", "prompt", "model"} <= set(body)):
            raise ServerDown(f"it answered {status} {body.get('error', 'without a task')}")
        return body

    def send(self, outcome: Json) -> Tuple[int, Json]:
        """Status and body of the answer to an outcome."""
        return self._ask("POST", "/task", body=outcome)

    def progress(self, task_id: int, lease_seconds: float, body: Json) -> Tuple[int, Json]:
        """Renew the lease, and send text; status and body of the answer."""
        # A renewal that takes longer than the lease is none.
        path, most = f"/task/{task_id}/progress", max(1.0, lease_seconds / 3)
        status, answer = self._ask("POST", path, most - ANSWER_TIMEOUT_SECONDS, body=body)
        # Text may be refused, and is not needed: it comes again with the result.
        if status not in (200, 404, 409) and not (status in (400, 413) and "offset" in body):
            raise ServerDown(f"it answered {status} {answer.get('error', '')}")
        return status, answer

    def get(self, path: str) -> Json:
        status, body = self._ask("GET", path)
        if status != 200:
            raise ServerDown(f"it answered {status} {body.get('error', '')}")
        return body

    def _ask(self, method: str, path: str, wait: float = 0.0, body: Optional[Json] = None,
             params: Optional[Json] = None) -> Tuple[int, Json]:
        # Escaped, a character would take up to twelve bytes.
        data = body and json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        timeout = (CONNECT_TIMEOUT_SECONDS, wait + ANSWER_TIMEOUT_SECONDS)
        # A kept connection may have been closed by the other side meanwhile: hence twice. To
        # repeat is harmless: a lost claim comes back by its lease, outcomes are idempotent.
        for is_last in (False, True):
            try:
                return self._answer(self._session.request(
                    method, self.url + path, params=params, data=data, timeout=timeout,
                    allow_redirects=False,
                ))
            except requests.Timeout:
                raise ServerDown("it was silent for too long") from None
            except requests.RequestException as error:
                if is_last or not isinstance(error, requests.ConnectionError):
                    break
        raise ServerDown("is it running, and is MANAGE_SERVER_URL right?")

    def _answer(self, answer: requests.Response) -> Tuple[int, Json]:
        body: Any = None
        with contextlib.suppress(ValueError):
            body = answer.json()
        status = answer.status_code
        if answer.is_redirect:
            where = answer.headers["Location"]
            raise ServerDown(f"it redirects to {where}: is MANAGE_SERVER_URL right?")
        if status == 413 and not isinstance(body, dict):
            body = {"error": "It is too large for what is in between."}
        if not isinstance(body, dict) or status >= 500 or status in (408, 429):
            raise ServerDown(f"something else answers there, with HTTP status {status}")
        if status in (401, 403):
            raise NotLetIn(self.url, str(body.get("error", "")))
        return status, body


class Link:
    """Says once that the other side is gone, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._is_up: Optional[bool] = None
        self._down_since = 0.0

    def up(self) -> None:
        with self._lock:
            if self._is_up is False:
                log.info("%s answers again", self._what)
            self._is_up = True

    def down(self, hint: str) -> None:
        with self._lock:
            if self._is_up is not False:
                self._down_since = time.monotonic()
                log.warning("%s does not answer: %s", self._what, hint)
            self._is_up = False

    def wait_out(self, hint: str, stop: threading.Event) -> None:
        """Say that it is down, and wait as long as it has been so, within limits."""
        self.down(hint)
        down_seconds = time.monotonic() - self._down_since
        # Workers that lost the server together should not come back together.
        stop.wait(min(MAX_PAUSE_SECONDS, max(1.0, down_seconds / 2)) * random.uniform(0.7, 1.0))


def deliver(server: ManageServer, outcome: Json, link: Link, end: threading.Event) -> bool:
    """Send an outcome until it is answered or it is time to end; whether it was accepted."""
    while True:
        try:
            status, body = server.send(outcome)
        except ServerDown as error:
            link.wait_out(str(error), end)
            if end.is_set():
                return False
            continue
        link.up()
        is_refused = status not in (200, 404, 409)
        if is_refused and outcome.pop("thinking", ""):
            # Perhaps it was that which was too much.
            continue
        if is_refused and "result" in outcome:
            reason = f"The Manage Server refused the result: {body.get('error')}"
            log.warning("task %s: %s", outcome["task_id"], reason)
            outcome = {"task_id": outcome["task_id"], "lease_id": outcome["lease_id"],
                       "error": reason}
            continue
        return status == 200


class Worker:
    """So many slots, each with a thread that claims a task, attends to it and delivers."""

    def __init__(self, settings: config.Settings) -> None:
        self._settings = settings
        # Set in this order: claim no more; release what runs.
        self._stop = threading.Event()
        self._end = threading.Event()
        # What `run` waits for: True is a wish to stop, False a slot that is no longer busy.
        self._news: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy = 0
        self._not_let_in: Optional[NotLetIn] = None
        self._ollama_link = Link(f"Ollama at {config.without_password(settings.ollama_host)}")
        self._server_link = Link(
            f"the Manage Server at {config.without_password(settings.manage_server_url)}")

    def run(self) -> None:
        """Work until `stop`; then finish what runs, or release it. Raises NotLetIn."""
        for _ in range(self._settings.worker_concurrency):
            threading.Thread(target=self._slot, daemon=True).start()
        while not self._wait_for_wish(math.inf):
            pass
        self._stop.set()
        self._wait_for_wish(GRACE_SECONDS)
        self._end.set()
        self._wait_for_wish(ANSWER_TIMEOUT_SECONDS / 3)
        if self._not_let_in:
            raise self._not_let_in

    def stop(self) -> None:
        """Claim no more; the second time: release what runs. Safe in a signal handler."""
        self._news.put(True)

    def _wait_for_wish(self, seconds: float) -> bool:
        """Wait for a wish to stop; when stopping also until nothing is busy. Whether it came."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() or self._busy:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            # On Windows a signal is noticed only between two waits.
            with contextlib.suppress(queue.Empty):
                if self._news.get(timeout=min(left, 1.0)):
                    return True
        return False

    def _slot(self) -> None:
        settings = self._settings
        ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds)
        server = ManageServer(settings)
        failures = 0
        while not self._stop.is_set():
            try:
                failures = failures + 1 if self._turn(ollama, server) else 0
                self._stop.wait(min(MAX_FAILURES_PAUSE_SECONDS, 2 ** failures // 2))
            except OllamaDown:
                self._ollama_link.wait_out("is `ollama serve` running?", self._stop)
            except ServerDown as error:
                self._server_link.wait_out(str(error), self._stop)
            except NotLetIn as error:
                self._not_let_in = error
                self.stop()
                return
            except Exception:
                log.exception("this should not happen; going on")
                self._stop.wait(MAX_PAUSE_SECONDS)

    def _turn(self, ollama: Ollama, server: ManageServer) -> bool:
        """Claim once, and work; whether Ollama failed in a way that may go on."""
        models = ollama.models()
        self._ollama_link.up()
        asked_at = time.monotonic()
        task = server.claim({
            "wait": CLAIM_WAIT_SECONDS,
            "lease": ASKED_LEASE_SECONDS,
            "worker": self._settings.worker_name,
            "models": ",".join(models[:MAX_MODELS]),
        })
        self._server_link.up()
        if not task:
            if time.monotonic() - asked_at < 1:
                self._stop.wait(NOT_HELD_PAUSE_SECONDS)
            return False
        with self._lock:
            self._busy += 1
        try:
            outcome = self._work(task, ollama, server)
        finally:
            with self._lock:
                self._busy -= 1
            self._news.put(False)
        return bool(outcome and (outcome.get("retry") or "release" in outcome))

    def _work(self, task: Json, ollama: Ollama, server: ManageServer) -> Optional[Json]:
        """Have a task run, and deliver what comes of it; the outcome, if it is still ours."""
        task_id, lease_id = task.pop("task_id"), task.pop("lease_id", None)
        lease_seconds = float(task.pop("lease_seconds", ASKED_LEASE_SECONDS))
        lease = Lease(task_id, lease_id, min(max(lease_seconds, 1.0), 3600.0))
        began_at = time.monotonic()
        log.info("task %s: %s, attempt %s", task_id, task["model"], task.pop("attempt", 1))
        generation = Generation(ollama, task)
        generation.start()
        try:
            outcome = self._attend(generation, lease, server)
        finally:
            generation.stop()
        if outcome is None:
            log.warning("task %s: dropped, it is cancelled or no longer ours", task_id)
            return None
        log.info("task %s: %s after %.1f s%s", task_id, _verb(outcome),
                 time.monotonic() - began_at, f": {outcome.get('error')}" * ("error" in outcome))
        whole = {"task_id": task_id, "lease_id": lease_id, **outcome}
        if not deliver(server, whole, self._server_link, self._end):
            log.warning("task %s: what came of it was not accepted", task_id)
        return outcome

    def _attend(self, generation: Generation, lease: Lease, server: ManageServer
                ) -> Optional[Json]:
        """Send what is written, and renew the lease, until there is an outcome; None when the
        task is cancelled or lost. One request at a time: what piles up meanwhile goes together."""
        offset: float = 0 if lease.lease_id else math.inf
        seconds = min(HEARTBEAT_SECONDS, lease.seconds / 3)
        while not generation.wait(0 if self._end.is_set() else seconds, offset):
            if self._end.is_set():
                return {"release": True}
            if not lease.lease_id:
                continue
            said = {} if offset == math.inf else generation.since(int(offset))
            body = {"lease_id": lease.lease_id, **said, **({"offset": offset} if said else {})}
            try:
                status, answer = server.progress(lease.task_id, lease.seconds, body)
            except ServerDown as error:
                self._server_link.down(str(error))
                generation.wait(seconds)
                continue
            self._server_link.up()
            if status in (404, 409):
                return None
            if said:
                # A server that keeps no text, or has enough of it, gets the result at the end.
                before, known = offset, answer.get("offset")
                offset = known if isinstance(known, int) else math.inf
                if offset <= before:
                    generation.wait(seconds)
        return _outcome(generation)


class Lease(NamedTuple):
    """The right to a task; the Manage Server may have given no `lease_id`."""

    task_id: int
    lease_id: Optional[str]
    seconds: float


def _verb(outcome: Json) -> str:
    return ("completed" if "result" in outcome else "released" if "release" in outcome
            else "failed, to be tried again," if outcome["retry"] else "failed")


def _outcome(generation: Generation) -> Json:
    try:
        return generation.outcome()
    except OllamaDown:
        return {"release": True}
    except OllamaError as error:
        return {"error": str(error), "retry": error.retry}
    except BaseException as error:
        log.exception("this should not happen; the task is tried again")
        return {"error": f"The worker failed: {type(error).__name__}.", "retry": True}


def check(settings: config.Settings) -> bool:
    """Print whether the Manage Server and Ollama can be reached; whether all is well."""
    well = True
    try:
        server = ManageServer(settings)
        status = server.get("/status")
        # /status takes any token; this, which renews nothing, only that of a worker.
        server.progress(0, ASKED_LEASE_SECONDS, {"lease_id": "check"})
        said = f"answers; queued tasks: {status.get('queued')}"
    except ServerDown as error:
        well, said = False, f"DOES NOT ANSWER: {error}"
    except NotLetIn as error:
        well, said = False, f"DOES NOT LET IN THIS WORKER: {error.reason}"
    print(f"Manage Server  {settings.manage_server_url}  {said}")
    try:
        models = Ollama(settings.ollama_host, settings.ollama_timeout_seconds).models()
        print(f"Ollama         {settings.ollama_host}  answers")
        print(f"Models         {', '.join(models) or 'NONE: try `ollama pull llama3`'}")
        well = well and bool(models)
    except OllamaDown:
        well = False
        print(f"Ollama         {settings.ollama_host}  DOES NOT ANSWER: is `ollama serve` running?")
    print("All is well." if well else "This worker cannot work yet.")
    return well


def main(argv: Optional[Sequence[str]] = None) -> NoReturn:
    parser = config.make_parser(config.LLM, "The LLM Server: runs tasks on the Ollama beside it.")
    parser.add_argument("--check", action="store_true", help="say what can be reached, and exit")
    settings, arguments = config.load(parser, argv)
    if arguments.check:
        sys.exit(0 if check(settings) else 1)
    config.start_logging(settings.log_level)
    worker = Worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: worker.stop())
    log.info("worker %s: claims from %s, runs on Ollama at %s", settings.worker_name,
             config.without_password(settings.manage_server_url),
             config.without_password(settings.ollama_host))
    try:
        worker.run()
    except NotLetIn as error:
        sys.exit(f"llm_server.py: {error}")
    log.info("worker %s: stopped", settings.worker_name)
    sys.exit(0)


if __name__ == "__main__":
    main()
