"""Stand-ins for Ollama and the Manage Server that do what a test tells them, over real HTTP.

They know no pytest. Whatever blocks here ends when the stub is closed.
"""
from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import queue
import socket
import threading
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Set, Tuple, Union
from urllib.parse import parse_qsl, urlsplit

# For what should happen at once: generous, since the machine may be busy.
SOON_SECONDS = 15
# Instead of an answer: hang up on the request.
DROP = (0, {})

Json = Dict[str, Any]


class Stub:
    """An HTTP server on a free port; a subclass has the answers."""

    def __init__(self) -> None:
        stub = self
        self.changed = threading.Condition()
        self.closed = False
        self.is_down = False
        self.dropped = 0
        self.connections: Set[socket.socket] = set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with stub.changed:
                    stub.connections.add(self.connection)

            def finish(self) -> None:
                with stub.changed:
                    stub.connections.discard(self.connection)
                    stub.changed.notify_all()
                with contextlib.suppress(OSError):
                    super().finish()

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                self._answer(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)))

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                self._answer(self.path, json.loads(self.rfile.read(size)))

            def _answer(self, path: str, body: Json) -> None:
                answer = DROP if stub.is_down else stub.answer(self, path, body)
                if answer == DROP or stub.closed:
                    with stub.changed:
                        stub.dropped += 1
                        stub.changed.notify_all()
                    self.close_connection = True
                elif answer is not None:
                    self.reply(*answer)

            def reply(self, status: int, body: Union[Json, str]) -> None:
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, handler: Any, path: str, body: Json) -> Any:
        """Status and body; None when it has been answered."""
        raise NotImplementedError

    def wait_until(self, condition: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, SOON_SECONDS), "it did not happen"

    def close(self) -> None:
        if self.closed:
            return
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Call:
    """A request for a generation; the test writes the answer, the client may hang up."""

    def __init__(self, handler: Any, fields: Json) -> None:
        self._handler = handler
        self.fields = fields
        self.authorization = handler.headers["Authorization"]
        self.gone = threading.Event()
        self._begun = False

    def begin(self) -> None:
        self._begun = True
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "application/x-ndjson")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def say(self, line: Union[Json, bytes]) -> None:
        if not self._begun:
            self.begin()
        data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def finish(self, text: str = "the answer", **metrics: Any) -> None:
        self.say({"response": text, "done": False})
        self.say({"response": "", "done": True, "done_reason": "stop", **metrics})
        # The client may have hung up already, having read what it needs.
        with contextlib.suppress(OSError, ValueError):
            self._handler.wfile.write(b"0\r\n\r\n")
        self.break_off()

    def refuse(self, status: int, error: str) -> None:
        self._handler.reply(status, {"error": error})
        self.break_off()

    def break_off(self) -> None:
        with contextlib.suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def watch(self) -> None:
        """Until the client hangs up, or the answer is over."""
        with contextlib.suppress(OSError):
            self._handler.connection.recv(1)
        self._handler.close_connection = True
        self.gone.set()


class StubOllama(Stub):
    def __init__(self, *models: str) -> None:
        super().__init__()
        self.models = models or ("llama3:latest",)
        self.tags_asked = 0
        self.calls: queue.Queue[Call] = queue.Queue()

    def answer(self, handler: Any, path: str, body: Json) -> Any:
        if path == "/api/tags":
            self.tags_asked += 1
            return 200, {"models": [{"name": name} for name in self.models]}
        call = Call(handler, body)
        self.calls.put(call)
        call.watch()
        return None

    def call(self) -> Call:
        """The next request for a generation."""
        return self.calls.get(timeout=SOON_SECONDS)


class StubManageServer(Stub):
    """Claims are held until there is something in `claim_answers`; all else is 200 at once,
    unless the test has put other answers there, or holds progress requests."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: List[Json] = []
        self.claim_answers: Deque[Tuple[int, Any]] = deque()
        self.outcomes: queue.Queue[Json] = queue.Queue()
        self.outcome_answers: Deque[Tuple[int, Any]] = deque()
        self.progress: queue.Queue[Json] = queue.Queue()
        # None: as a server does that keeps text.
        self.progress_answer: Optional[Tuple[int, Any]] = None
        self.most_progress_at_once = 0
        self.authorizations: List[Tuple[str, Optional[str]]] = []
        self.largest_body_bytes = 0
        self._progress_at_once = 0
        self._holds_progress = False
        # Characters, and whether each is thinking.
        self._kept: Dict[int, List[Tuple[str, bool]]] = {}

    def submit(self, task_id: int = 1, **more: Any) -> None:
        task = {"task_id": task_id, "prompt": "a prompt", "model": "llama3", "attempt": 1,
                "lease_id": f"lease-{task_id}", "lease_seconds": 3000, **more}
        self.answer_claim(200, task)

    def answer_claim(self, status: int, body: Any) -> None:
        with self.changed:
            self.claim_answers.append((status, body))
            self.changed.notify_all()

    def outcome(self) -> Json:
        return self.outcomes.get(timeout=SOON_SECONDS)

    def next_progress(self) -> Json:
        return self.progress.get(timeout=SOON_SECONDS)

    def hold_progress(self, holds: bool = True) -> None:
        with self.changed:
            self._holds_progress = holds
            self.changed.notify_all()

    def let_progress(self) -> None:
        self.hold_progress(False)

    def written(self, task_id: int = 1) -> List[Tuple[str, str]]:
        """What was sent of a task, kind by kind."""
        groups = itertools.groupby(self._kept.get(task_id, []), lambda kept: kept[1])
        return [("thinking" if is_thinking else "text", "".join(char for char, _ in group))
                for is_thinking, group in groups]

    def lose_text(self, from_offset: int, task_id: int = 1) -> None:
        with self.changed:
            del self._kept[task_id][from_offset:]

    def answer(self, handler: Any, path: str, body: Json) -> Any:
        self.authorizations.append((path, handler.headers["Authorization"]))
        size = int(handler.headers.get("Content-Length", 0))
        self.largest_body_bytes = max(self.largest_body_bytes, size)
        if path == "/task" and handler.command == "GET":
            return self._claim(body)
        if path == "/task":
            answer = self.outcome_answers.popleft() if self.outcome_answers else None
            self.outcomes.put(body)
            return answer or (200, {"message": "Result received."})
        return self._progress(path, body)

    def _claim(self, params: Json) -> Optional[Tuple[int, Any]]:
        with self.changed:
            self.claims.append(params)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.claim_answers or self.closed)
            return DROP if self.closed else self.claim_answers.popleft()

    def _progress(self, path: str, body: Json) -> Tuple[int, Any]:
        with self.changed:
            self._progress_at_once += 1
            self.most_progress_at_once = max(self.most_progress_at_once, self._progress_at_once)
            self.progress.put({"path": path, **body})
            self.changed.wait_for(lambda: not self._holds_progress or self.closed)
            self._progress_at_once -= 1
            if self.progress_answer:
                return self.progress_answer
            self.changed.notify_all()
            return 200, self._keep(int(path.split("/")[2]), body)

    def _keep(self, task_id: int, body: Json) -> Json:
        said = [(char, key == "thinking") for key in ("thinking", "text")
                for char in body.get(key, "")]
        if not said:
            return {"lease_seconds": 30}
        kept = self._kept.setdefault(task_id, [])
        if body["offset"] <= len(kept):
            kept.extend(said[len(kept) - body["offset"]:])
        return {"lease_seconds": 30, "offset": len(kept)}
