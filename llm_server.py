"""The LLM Server: claims tasks from the Manage Server, has Ollama run them, delivers what came.

It dials out and nothing dials in. It knows HTTP and config.py, and nothing else of the
project: these two files, copied to the GPU machine, run.
"""
from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Sequence, Tuple

import requests
import urllib3

import config

log = logging.getLogger("llm_server")

# Renewed every third of it, so that the death of this worker is noticed in half a minute.
ASKED_LEASE_SECONDS = 30
# Below the 60 seconds after which many proxies cut a silent request.
CLAIM_WAIT_SECONDS = 25
CONNECT_TIMEOUT_SECONDS = 10
ANSWER_TIMEOUT_SECONDS = 30
MODELS_FRESH_SECONDS = 10
MAX_PAUSE_SECONDS = 30
# After an empty answer that came at once: the server holds no more requests.
NOT_HELD_PAUSE_SECONDS = 2
# How long running tasks may go on after SIGTERM before they are released.
GRACE_SECONDS = 20

Json = Dict[str, Any]


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


def call_ollama(model: str, prompt: str, fields: Optional[Json] = None) -> str:
    """Ollama's answer to a prompt. `fields` are further ones of /api/generate.

    Raises OllamaError. Source: docs/api.md in ollama/ollama, "Generate a completion".
    """
    settings = config.Settings.from_environ(config.LLM)
    ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds)
    return "".join(ollama.generate({**(fields or {}), "model": model, "prompt": prompt}))


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

    def generate(
        self, fields: Json, opened: Callable[[requests.Response], None] = lambda response: None
    ) -> Iterator[str]:
        """The pieces of an answer as they come. Raises OllamaError.

        `opened` gets the response first: to close its connection stops the generation.
        """
        asked_at, self._models_asked_at = self._models_asked_at, -math.inf
        try:
            with self._session.post(
                f"{self.url}/api/generate",
                json={**fields, "stream": True},
                stream=True,
                timeout=self._timeout,
            ) as response:
                opened(response)
                if response.status_code != 200:
                    raise _refusal(response)
                yield from _pieces(response)
            self._models_asked_at = asked_at
        except requests.Timeout:
            raise OllamaError("Ollama was silent for too long.", retry=True) from None
        except requests.RequestException as error:
            if error.args and isinstance(error.args[0], urllib3.exceptions.MaxRetryError):
                raise OllamaDown() from None
            raise OllamaError("Ollama broke off.", retry=True) from None


def _refusal(response: requests.Response) -> OllamaError:
    try:
        message = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"Ollama answered with HTTP status {response.status_code}."
    return OllamaError(message, retry=response.status_code >= 500 or response.status_code == 429)


def _pieces(response: requests.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if not line:
            continue
        try:
            part = json.loads(line)
            error, text, done = part.get("error"), part.get("response", ""), part.get("done")
        except (ValueError, AttributeError):
            raise OllamaError("Ollama answered with what is no JSON object.", retry=True) from None
        if error:
            raise OllamaError(str(error), retry=True)
        yield str(text)
        if done:
            return
    raise OllamaError("Ollama ended its answer before it was done.", retry=True)


class Generation(threading.Thread):
    """An answer of Ollama, read by a thread of its own; another can wait for it, or stop it."""

    def __init__(self, ollama: Ollama, fields: Json) -> None:
        super().__init__(name="generation", daemon=True)
        self._ollama = ollama
        self._fields = fields
        self._news = threading.Condition()
        self._response: Optional[requests.Response] = None
        self._pieces: List[str] = []
        self._error: Optional[Exception] = None
        self._done = False
        self._stopped = False

    def run(self) -> None:
        try:
            for piece in self._ollama.generate(self._fields, self._opened):
                self._pieces.append(piece)
        except Exception as error:
            self._error = error
        finally:
            with self._news:
                self._done = True
                self._news.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether it is done, once it is, or was woken, or the seconds are over."""
        with self._news:
            if not self._done:
                self._news.wait(seconds)
            return self._done

    def wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def result(self) -> str:
        """The whole answer; raises OllamaError."""
        if self._error:
            raise self._error
        return "".join(self._pieces)

    def stop(self) -> None:
        """Hang up, which makes Ollama stop."""
        with self._news:
            self._stopped = True
            if self._response is not None:
                _hang_up(self._response)

    def _opened(self, response: requests.Response) -> None:
        with self._news:
            self._response = response
            if self._stopped:
                _hang_up(response)


def _hang_up(response: requests.Response) -> None:
    # To close it would wait for the thread that reads, so the socket itself is shut down.
    # AttributeError: everything was read, and the socket let go.
    with contextlib.suppress(AttributeError, OSError):
        raw: Any = response.raw
        raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)


def make_session(proxies: Json) -> requests.Session:
    """A session that keeps its connection, and has asked the environment once for all."""
    session = requests.Session()
    session.trust_env = False
    session.proxies = proxies
    environ = os.environ
    session.verify = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or True
    return session


class ManageServer:
    """The worker's side of the protocol, for one thread at a time.

    All of it raises ServerDown, and NotLetIn.
    """

    def __init__(self, settings: config.Settings) -> None:
        self.url = settings.manage_server_url
        self._session = make_session(requests.utils.get_environ_proxies(self.url))
        if settings.worker_token:
            self._session.headers["Authorization"] = f"Bearer {settings.worker_token}"

    def claim(self, params: Json) -> Json:
        """A task, or an empty object."""
        wait = float(params.get("wait", 0))
        status, body = self._ask("GET", "/task", wait, params=params)
        if status != 200 or (body and not {"task_id", "prompt", "model"} <= set(body)):
            raise ServerDown(f"it answered {status} {body.get('error', body)}")
        return body

    def send(self, outcome: Json) -> Tuple[int, Json]:
        """Status and body of the answer to an outcome."""
        return self._ask("POST", "/task", json=outcome)

    def renew(self, task_id: int, lease_id: str) -> bool:
        """Whether the worker should go on with the task."""
        path = f"/task/{task_id}/progress"
        status, body = self._ask("POST", path, json={"lease_id": lease_id})
        if status not in (200, 404, 409):
            raise ServerDown(f"it answered {status} {body.get('error', '')}")
        return status == 200

    def get(self, path: str) -> Json:
        status, body = self._ask("GET", path)
        if status != 200:
            raise ServerDown(f"it answered {status} {body.get('error', '')}")
        return body

    def _ask(
        self, method: str, path: str, wait: float = 0.0, **kwargs: Any
    ) -> Tuple[int, Json]:
        timeout = (CONNECT_TIMEOUT_SECONDS, wait + ANSWER_TIMEOUT_SECONDS)
        # A kept connection may have been closed by the other side meanwhile: hence twice. To
        # repeat is harmless: a lost claim comes back by its lease, outcomes are idempotent.
        for is_last in (False, True):
            try:
                answer = self._session.request(
                    method, self.url + path, timeout=timeout, allow_redirects=False, **kwargs
                )
                break
            except requests.Timeout:
                raise ServerDown("it was silent for too long") from None
            except requests.RequestException as error:
                if is_last or not isinstance(error, requests.ConnectionError):
                    raise ServerDown("is it running, and is MANAGE_SERVER_URL right?") from None
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.is_redirect:
            where = answer.headers["Location"]
            raise ServerDown(f"it redirects to {where}: is MANAGE_SERVER_URL right?")
        if not isinstance(body, dict) or answer.status_code >= 500:
            raise ServerDown(f"what answered, with status {answer.status_code}, is none")
        if answer.status_code in (401, 403):
            raise NotLetIn(f"the Manage Server at {self.url} does not let this worker in: "
                           f"{body.get('error', '')} WORKER_TOKEN sets the token.")
        return answer.status_code, body


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
        stop.wait(min(MAX_PAUSE_SECONDS, max(1.0, down_seconds)) * random.uniform(0.7, 1.0))


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
        if status not in (200, 404, 409) and "result" in outcome:
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
        self._stop = threading.Event()
        self._end = threading.Event()
        self._changed = threading.Condition()
        self._generations: Dict[Generation, None] = {}
        self._busy = 0
        self._not_let_in: Optional[NotLetIn] = None
        self._ollama_link = Link(f"Ollama at {settings.ollama_host}")
        self._server_link = Link(f"the Manage Server at {settings.manage_server_url}")

    def run(self) -> None:
        """Work until `stop`; then finish what runs, or release it. Raises NotLetIn."""
        for _ in range(self._settings.worker_concurrency):
            threading.Thread(target=self._slot, daemon=True).start()
        # On Windows a signal is noticed only between two waits.
        while not self._stop.wait(1):
            pass
        self._wait_until_idle(GRACE_SECONDS)
        self._end.set()
        with self._changed:
            for generation in self._generations:
                generation.wake()
        self._wait_until_idle(ANSWER_TIMEOUT_SECONDS / 3)
        if self._not_let_in:
            raise self._not_let_in

    def stop(self) -> None:
        """Claim no more; the second time: release what runs. Safe in a signal handler."""
        if self._stop.is_set():
            self._end.set()
        self._stop.set()

    def _wait_until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        ending = self._end.is_set()
        with self._changed:
            while self._busy and time.monotonic() < deadline and self._end.is_set() == ending:
                self._changed.wait(0.5)

    def _slot(self) -> None:
        settings = self._settings
        ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds)
        server = ManageServer(settings)
        while not self._stop.is_set():
            try:
                self._turn(ollama, server)
            except OllamaDown:
                self._ollama_link.wait_out("is `ollama serve` running?", self._stop)
            except ServerDown as error:
                self._server_link.wait_out(str(error), self._stop)
            except NotLetIn as error:
                self._not_let_in = error
                self._stop.set()
                self._end.set()
            except Exception:
                log.exception("this should not happen; going on")
                self._stop.wait(MAX_PAUSE_SECONDS)

    def _turn(self, ollama: Ollama, server: ManageServer) -> None:
        models = ollama.models()
        self._ollama_link.up()
        asked_at = time.monotonic()
        task = server.claim({
            "wait": CLAIM_WAIT_SECONDS,
            "lease": ASKED_LEASE_SECONDS,
            "worker": self._settings.worker_name,
            "models": ",".join(models),
        })
        self._server_link.up()
        if task:
            with self._counted_busy():
                self._work(task, ollama, server)
        elif time.monotonic() - asked_at < 1:
            self._stop.wait(NOT_HELD_PAUSE_SECONDS)

    @contextlib.contextmanager
    def _counted_busy(self) -> Iterator[None]:
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _work(self, task: Json, ollama: Ollama, server: ManageServer) -> None:
        task_id, lease_id = task.pop("task_id"), task.pop("lease_id", None)
        lease_seconds = float(task.pop("lease_seconds", ASKED_LEASE_SECONDS))
        began_at = time.monotonic()
        log.info("task %s: %s, attempt %s", task_id, task["model"], task.pop("attempt", 1))
        generation = Generation(ollama, task)
        with self._changed:
            self._generations[generation] = None
        generation.start()
        try:
            outcome = self._attend(generation, task_id, lease_id, lease_seconds, server)
        finally:
            with self._changed:
                del self._generations[generation]
        if outcome is None:
            log.warning("task %s: dropped, it is no longer ours", task_id)
            return
        log.info("task %s: %s after %.1f s%s", task_id, _verb(outcome),
                 time.monotonic() - began_at, f": {outcome.get('error')}" * ("error" in outcome))
        outcome = {"task_id": task_id, "lease_id": lease_id, **outcome}
        if not deliver(server, outcome, self._server_link, self._end):
            log.warning("task %s: what came of it was not accepted", task_id)

    def _attend(
        self, generation: Generation, task_id: int, lease_id: Optional[str],
        lease_seconds: float, server: ManageServer,
    ) -> Optional[Json]:
        """Renew the lease until there is an outcome; None when the task is lost."""
        while not generation.wait(lease_seconds / 3):
            if self._end.is_set():
                generation.stop()
                return {"release": True}
            try:
                if lease_id and not server.renew(task_id, lease_id):
                    generation.stop()
                    return None
                self._server_link.up()
            except ServerDown as error:
                self._server_link.down(str(error))
        return _outcome(generation)


def _verb(outcome: Json) -> str:
    return ("completed" if "result" in outcome else "released" if "release" in outcome
            else "failed, to be tried again," if outcome["retry"] else "failed")


def _outcome(generation: Generation) -> Json:
    try:
        return {"result": generation.result()}
    except OllamaDown:
        return {"release": True}
    except OllamaError as error:
        return {"error": str(error), "retry": error.retry}
    except Exception as error:
        log.exception("this should not happen; the task is tried again")
        return {"error": f"The worker failed: {type(error).__name__}.", "retry": True}


def check(settings: config.Settings) -> bool:
    """Print whether the Manage Server and Ollama can be reached; whether all is well."""
    well = True
    try:
        status = ManageServer(settings).get("/status")
        said = f"answers; queued tasks: {status.get('queued')}"
    except ServerDown as error:
        well, said = False, f"DOES NOT ANSWER: {error}"
    except NotLetIn as error:
        well, said = False, f"DOES NOT LET IN: {error}"
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
             settings.manage_server_url, settings.ollama_host)
    try:
        worker.run()
    except NotLetIn as error:
        sys.exit(f"llm_server.py: {error}")
    log.info("worker %s: stopped", settings.worker_name)
    sys.exit(0)


if __name__ == "__main__":
    main()
