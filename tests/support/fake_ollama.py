"""An Ollama without a model: it answers in Ollama's shapes and breaks as a test says.

    with FakeOllama("llama3:latest") as ollama:
        ollama.script(Script(hold_before=1))
        ...                                 # A client has read the first piece and waits.
        exchange = ollama.next_exchange()
        exchange.release()
"""
from __future__ import annotations

import hashlib
import json
import queue
import socket
import threading
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional

from tests.support.processes import TIMEOUT_SECONDS
from tests.support.stub_server import HANG_UP, Answer, Json, Request, StubServer
from tests.support.wires import WIRES, Reply, Wire

VERSION = "0.33.0"
JSON_TYPE = {"Content-Type": "application/json; charset=utf-8"}
TEXT_TYPE = {"Content-Type": "text/plain; charset=utf-8"}


class Script(NamedTuple):
    """How to answer one request.

    The chunks of a stream are counted from 0: one for each piece of text, and the last for the
    end. For an answer that is not streamed, any `..._before` applies before all of it.
    """

    reply: Optional[Reply] = None
    """What the model says, instead of the server's own reply."""
    hold_before: Optional[int] = None
    """Wait there until `Exchange.release()`, or until the client hangs up."""
    break_before: Optional[int] = None
    """Close the connection there."""
    fail_before: Optional[int] = None
    """Fail there as Ollama does: /api says so in the stream, /v1 only ends it early."""
    status: int = 200
    error: str = "the model ran out of memory"
    """The text of an error, with `fail_before` or a status other than 200."""
    raw: Optional[Answer] = None
    """The whole answer, instead of all else."""


class Exchange:
    """A request for inference, as it arrived, and what became of it."""

    def __init__(self, request: Request) -> None:
        self.method = request.method
        self.path = request.path
        self.query = request.query
        self.headers = request.headers
        self.body = request.body
        # Set when the client closes the connection before the end of the answer.
        self.hung_up = threading.Event()
        # Set before the last bytes of an answer, whose reader may close the connection at once.
        self.is_finished = False
        self._released = threading.Event()
        self._request = request

    @property
    def fields(self) -> Json:
        """The body, decoded."""
        return json.loads(self.body)  # type: ignore[no-any-return]

    def release(self) -> None:
        """Go on with an answer that is held."""
        self._released.set()

    def wait_for_hang_up(self) -> None:
        assert self.hung_up.wait(TIMEOUT_SECONDS), "the client did not hang up"

    def hold(self) -> None:
        """Wait for release(), a hang-up or the end of the server; for the server alone."""
        self._released.wait()

    def watch(self, connection: socket.socket) -> None:
        """Notice a hang-up, which data of a next request is not; for the server alone."""
        try:
            has_ended = not connection.recv(1, socket.MSG_PEEK)
        except OSError:
            has_ended = True
        if has_ended:
            if not self.is_finished:
                self.hung_up.set()
            self._released.set()


class FakeOllama(StubServer):
    """Answers all routes that the Manage Server relays, and those that describe the models."""

    def __init__(self, *models: str) -> None:
        self.models: List[str] = list(models or ("llama3:latest",))
        self.loaded: List[str] = []
        # What the model says unless a script says otherwise.
        self.reply = Reply()
        # All requests for inference, in the order of their arrival.
        self.exchanges: List[Exchange] = []
        # Further fields of a model's entry in the lists, by its name.
        self.more: Dict[str, Json] = {}
        self._scripts: Deque[Script] = deque()
        self._arrived: queue.Queue[Exchange] = queue.Queue()
        super().__init__()

    def script(self, *scripts: Script) -> None:
        """Answer the next requests like this; those after them are answered without faults."""
        self._scripts.extend(scripts)

    def release_all(self) -> None:
        """Answer whatever is held or comes from now on."""
        with self.changed:
            self._scripts.clear()
            for exchange in self.exchanges:
                exchange.release()

    def reset(self) -> None:
        """Forget what was recorded, for the next test."""
        with self.changed:
            self.exchanges.clear()
            while not self._arrived.empty():
                self._arrived.get()

    def next_exchange(self) -> Exchange:
        """Wait for the next request for inference."""
        return self._arrived.get(timeout=TIMEOUT_SECONDS)

    def answer(self, request: Request) -> Optional[Answer]:
        wire = WIRES.get(request.path)
        if wire is None or request.method != "POST":
            return self._describe(request)
        exchange = Exchange(request)
        connection = request.connection
        threading.Thread(target=exchange.watch, args=(connection,), daemon=True).start()
        with self.changed:
            script = self._scripts.popleft() if self._scripts else Script()
            self.exchanges.append(exchange)
            self.changed.notify_all()
        self._arrived.put(exchange)
        try:
            return self._follow(script, exchange, request, wire)
        except OSError:
            exchange.hung_up.set()
            raise

    def _follow(self, script: Script, exchange: Exchange, request: Request, wire: Wire
                ) -> Optional[Answer]:
        if script.raw is not None:
            exchange.is_finished = True
            return script.raw
        status, error = script.status, script.error
        if not self._has(exchange.fields.get("model", "")):
            status, error = 404, f"model '{exchange.fields.get('model', '')}' not found"
        if status == 200 and self._is_streamed(exchange, wire):
            return self._stream(script, exchange, request, wire)
        if script.hold_before is not None:
            exchange.hold()
        if script.break_before is not None or exchange.hung_up.is_set():
            return HANG_UP
        if script.fail_before is not None:
            status = 500
        exchange.is_finished = True
        body = wire.whole(exchange.fields, script.reply or self.reply) if status == 200 \
            else wire.error(status, error)
        return status, json.dumps(body, ensure_ascii=False), JSON_TYPE

    @staticmethod
    def _is_streamed(exchange: Exchange, wire: Wire) -> bool:
        asked = exchange.fields.get("stream")
        return wire.can_stream and (wire.streams_by_default if asked is None else bool(asked))

    def _stream(self, script: Script, exchange: Exchange, request: Request, wire: Wire
                ) -> Optional[Answer]:
        request.start_stream(wire.stream_type)
        for index, chunk in enumerate(wire.stream(exchange.fields, script.reply or self.reply)):
            if index == script.hold_before:
                exchange.hold()
            if index == script.break_before or exchange.hung_up.is_set():
                return HANG_UP
            if index == script.fail_before:
                chunk = wire.broken_chunk(exchange.fields, script.error)
                if chunk:
                    request.send_chunk(chunk)
                break
            request.send_chunk(chunk)
        exchange.is_finished = True
        request.send_chunk(b"")
        return None

    def _describe(self, request: Request) -> Answer:
        if request.path == "/":
            return 200, "Ollama is running", TEXT_TYPE
        if request.path == "/api/show" and request.method == "POST":
            return self._show(request.json)
        entries = [self._entry(name) for name in self.models]
        running = [{**entry, "expires_at": "2030-01-01T00:00:00Z", "size_vram": entry["size"],
                    "context_length": 4096} for entry in entries if entry["name"] in self.loaded]
        described: Dict[str, Any] = {
            "/api/version": {"version": VERSION}, "/api/tags": {"models": entries},
            "/api/ps": {"models": running},
            "/v1/models": {"object": "list", "data": [
                {"id": name, "object": "model", "created": 1767225600, "owned_by": "library"}
                for name in self.models]},
        }
        if request.path in described:
            return 200, json.dumps(described[request.path]), JSON_TYPE
        return 404, "404 page not found", TEXT_TYPE

    def _show(self, fields: Json) -> Answer:
        name = fields.get("model") or fields.get("name") or ""
        if not self._has(name):
            return 404, json.dumps({"error": f"model '{name}' not found"}), JSON_TYPE
        entry = self._entry(name)
        body = {"license": "MIT", "modelfile": "FROM it", "template": "{{ .Prompt }}",
                "details": entry["details"], "modified_at": entry["modified_at"],
                "capabilities": ["completion", "tools", "vision"],
                "model_info": {"general.architecture": "llama", "llama.context_length": 4096}}
        return 200, json.dumps(body), JSON_TYPE

    def _entry(self, name: str) -> Json:
        details = {"parent_model": "", "format": "gguf", "family": "llama",
                   "families": ["llama"], "parameter_size": "8B", "quantization_level": "Q4_0"}
        return {"name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z",
                "size": 4_000_000_000, "digest": hashlib.sha256(name.encode()).hexdigest(),
                "details": details, **self.more.get(name, {})}

    def _has(self, name: str) -> bool:
        """Whether there is a model of that name, to which Ollama adds `:latest`."""
        wanted = name.lower() if ":" in name else f"{name.lower()}:latest"
        return wanted in (model.lower() for model in self.models)
