"""Stub servers for tests of the worker: an Ollama and a Manage Server that do as a test says."""
from __future__ import annotations

import contextlib
import itertools
import json
import queue
import threading
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple, Union

from tests.support.stub_server import (
    HANG_UP,
    SOON_SECONDS,
    Answer,
    Body,
    Json,
    Request,
    StubServer,
)


class Call:
    """A request to generate an answer, which the test writes line by line."""

    def __init__(self, request: Request) -> None:
        self._request = request
        # The next request would be taken for a disconnection.
        request.is_last = True
        self.path, self.query, self.headers = request.path, request.query, request.headers
        self.body = request.body
        self.fields: Json = request.json
        self.authorization = request.headers["Authorization"]
        self.disconnected = threading.Event()
        self._is_started = False

    def begin(self, content_type: str = "application/x-ndjson", is_chunked: bool = True) -> None:
        """Send the head of an answer without a length, before anything is written."""
        self._is_started = True
        self._request.start_stream(content_type, is_chunked)

    def write(self, line: Union[Json, bytes]) -> None:
        """Send a line; bytes are sent as they are."""
        content = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        if self._is_started:
            self._request.send_chunk(content)
        else:
            self._is_started = True
            self._request.start_stream("application/x-ndjson", start=content)

    def finish(self, text: str = "the answer", **metrics: Any) -> None:
        self.write({"response": text, "done": False})
        self.write({"response": "", "done": True, "done_reason": "stop", **metrics})
        self.end()

    def end(self) -> None:
        """End an answer without a length."""
        # The client disconnects as soon as it has read the last line.
        with contextlib.suppress(OSError, ValueError):
            self._request.send_chunk(b"")
        self._request.hang_up()

    def reply(self, status: int, body: Body, **headers: str) -> None:
        """Send a whole answer; an underscore in a header's name is a dash."""
        # The client disconnects as soon as it has read the last byte, or the head of an empty body.
        with contextlib.suppress(OSError, ValueError):
            self._request.reply(
                status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def refuse(self, status: int, error: str) -> None:
        self._request.reply(status, {"error": error})
        self._request.hang_up()

    def hang_up(self) -> None:
        self._request.hang_up()

    def wait_for_disconnect(self) -> None:
        self._request.wait_for_disconnect()
        self.disconnected.set()


class StubOllama(StubServer):
    """Lists `models`, and leaves the answer of each generation to the test."""

    def __init__(self, *models: str) -> None:
        self.models = models or ("llama3:latest",)
        # What it says about itself, and which requests of that kind have come.
        self.version = "0.33.0"
        self.ps_answer: Answer = (200, {"models": []})
        self.shows: Dict[str, Answer] = {}
        self.metadata_requests: List[Tuple[str, str]] = []
        # Instead of the models.
        self.tags_answer: Optional[Answer] = None
        self._calls: queue.Queue[Call] = queue.Queue()
        super().__init__()

    def next_call(self) -> Call:
        """Wait for the next request to generate an answer."""
        return self._calls.get(timeout=SOON_SECONDS)

    def answer(self, request: Request) -> Optional[Answer]:
        if request.path == "/api/tags":
            return self.tags_answer or (
                200, {"models": [{"name": name} for name in self.models]})
        if request.path in ("/api/version", "/api/ps", "/api/show"):
            return self._answer_metadata(request)
        call = Call(request)
        self._calls.put(call)
        call.wait_for_disconnect()
        return None


    def _answer_metadata(self, request: Request) -> Answer:
        model = request.json["model"] if request.body else ""
        with self.changed:
            self.metadata_requests.append((request.path, model))
            self.changed.notify_all()
        if request.path == "/api/version":
            return 200, {"version": self.version}
        if request.path == "/api/ps":
            return self.ps_answer
        return self.shows.get(model, (404, {"error": f"model '{model}' not found"}))


MARKER = {"Llm-Tasks": "1"}
RELAY_TYPE = "application/vnd.llm-tasks.relay"


class StubManageServer(StubServer):
    """Holds claims until the test submits a task, and accepts progress and outcomes.

    A test may prepare other answers, or hold the progress requests. A plain one knows only the
    four endpoints, and its answers have no marker.
    """

    def __init__(self, is_plain: bool = False) -> None:
        self._is_plain = is_plain
        # The body of each claim, or its query where it is a GET; (path, Authorization) of each
        # request; the bodies of claims that only check, and of leaves.
        self.claims: List[Json] = []
        self.authorizations: List[Tuple[str, Optional[str]]] = []
        self.checks: List[Json] = []
        self.leaves: queue.Queue[Json] = queue.Queue()
        # The bodies of the requests.
        self.outcomes: queue.Queue[Json] = queue.Queue()
        self.progress: queue.Queue[Json] = queue.Queue()
        self.largest_body_bytes = 0
        self.most_progress_at_once = 0
        # Answers to the next outcomes, to the next progress requests, and to the next requests
        # whatever they are; to all progress requests, instead of keeping the text; to all checks.
        self.outcome_answers: Deque[Answer] = deque()
        self.progress_answers: Deque[Answer] = deque()
        self.any_answers: Deque[Answer] = deque()
        self.progress_answer: Optional[Answer] = None
        self.check_answer: Answer = (200, {})
        self._claim_answers: Deque[Answer] = deque()
        self._progress_at_once = 0
        self._holds_progress = False
        # The (kind, character) pairs kept of each task.
        self._kept: Dict[int, List[Tuple[str, str]]] = {}
        # The parts of relayed answers, without the bodies; what has been kept of each answer.
        self.parts: queue.Queue[Json] = queue.Queue()
        self.relayed: Dict[int, bytes] = {}
        # The digest of the inventory that it has, None if it takes none; the bodies that came.
        self.inventory_digest: Optional[str] = None
        self.inventories: queue.Queue[Json] = queue.Queue()
        self.inventory_answers: Deque[Answer] = deque()
        # Instead of keeping the parts of relayed answers.
        self.answer_answer: Optional[Answer] = None
        super().__init__()
        self.headers = {} if is_plain else dict(MARKER)

    def submit(self, task_id: int = 1, **fields: Any) -> None:
        self.answer_claim(200, {
            "task_id": task_id, "prompt": "a prompt", "model": "llama3", "attempt": 1,
            "lease_id": f"lease-{task_id}", "lease_seconds": 3000, **fields,
        })

    def submit_chat(self, task_id: int = 1, **fields: Any) -> None:
        self.answer_claim(200, {
            "task_id": task_id, "messages": [{"role": "user", "content": "Hi"}], "model": "llama3",
            "lease_id": f"lease-{task_id}", "lease_seconds": 3000, **fields,
        })

    def submit_relayed(self, body: bytes, path: str = "/api/chat", task_id: int = 1,
                       **fields: Any) -> None:
        """Give the next claim a relayed task; `fields` replace those of its first line."""
        first = {"task_id": task_id, "model": "llama3", "attempt": 1,
                 "lease_id": f"lease-{task_id}", "lease_seconds": 3000,
                 "max_result_bytes": 8 * 1024 * 1024,
                 "relay": {"path": path, "headers": {}, "stream": True}, **fields}
        self.answer_claim(200, json.dumps(first).encode() + b"\n" + body,
                          {**MARKER, "Content-Type": RELAY_TYPE})

    def answer_claim(self, *answer: Any) -> None:
        """Answer the next claim, or the one that is held."""
        with self.changed:
            self._claim_answers.append(answer)
            self.changed.notify_all()

    def wait_until_taken(self) -> None:
        """Wait until the claims have all answers that were given."""
        self.wait_until(lambda: not self._claim_answers)

    def become_marked(self) -> None:
        """Be a whole Manage Server from now on, as after an update."""
        self._is_plain = False
        self.headers.update(MARKER)

    def next_outcome(self) -> Json:
        return self.outcomes.get(timeout=SOON_SECONDS)

    def next_inventory(self) -> Json:
        return self.inventories.get(timeout=SOON_SECONDS)

    def next_progress(self) -> Json:
        return self.progress.get(timeout=SOON_SECONDS)

    def hold_progress(self) -> None:
        self._set_holds_progress(True)

    def let_progress_go(self) -> None:
        self._set_holds_progress(False)

    def kept_text(self, task_id: int = 1) -> List[Tuple[str, str]]:
        """The text of a task, as (kind, text) pairs."""
        with self.changed:
            groups = itertools.groupby(self._kept.get(task_id, []), lambda kept: kept[0])
            return [(kind, "".join(char for _, char in group)) for kind, group in groups]

    def wait_for_text(self, *text: Tuple[str, str]) -> None:
        """Wait until exactly this has been kept of task 1."""
        self.wait_until(lambda: self.kept_text() == list(text))

    def lose_relayed(self) -> None:
        """Forget what has been kept of all relayed answers."""
        with self.changed:
            self.relayed.clear()

    def lose_text(self, from_offset: int, task_id: int = 1) -> None:
        with self.changed:
            del self._kept[task_id][from_offset:]

    def answer(self, request: Request) -> Answer:
        self.authorizations.append((request.path, request.headers["Authorization"]))
        self.largest_body_bytes = max(self.largest_body_bytes, len(request.body))
        if self.any_answers:
            return self.any_answers.popleft()
        if request.method == "GET" and request.path == "/task":
            return self._answer_claim(request.query)
        if request.method == "POST" and request.path == "/task":
            answer = self.outcome_answers.popleft() if self.outcome_answers else None
            self.outcomes.put(request.json)
            return answer or (200, {"message": "Result received."})
        if request.path.startswith("/result/"):
            return 404, {"error": "Task not found."}
        return (404, "Not Found") if self._is_plain else self._answer_more(request)

    def _answer_more(self, request: Request) -> Answer:
        """Answer what goes beyond the four endpoints."""
        if request.path == "/status":
            return 200, {"queued": len(self._claim_answers)}
        if not request.path.startswith("/task/") or request.path == "/task/exchange":
            return 404, {"error": "There is nothing at this path."}
        if request.path == "/task/leave":
            self.leaves.put(request.json)
            return 200, {}
        if request.path.endswith("/answer"):
            return self._answer_part(request)
        if request.path == "/task/inventory":
            return self._answer_inventory(request.json)
        if request.path != "/task/claim":
            return self._answer_progress(request.path, request.json)
        if request.json.get("check"):
            self.checks.append(request.json)
            return self.check_answer
        return self._answer_claim(request.json)

    def _set_holds_progress(self, holds: bool) -> None:
        with self.changed:
            self._holds_progress = holds
            self.changed.notify_all()

    def _answer_claim(self, claim: Json) -> Answer:
        with self.changed:
            self.claims.append(claim)
            self.changed.notify_all()
            if self.inventory_digest is not None and claim.get(
                    "inventory", self.inventory_digest) != self.inventory_digest:
                return 200, {"inventory_wanted": True}
            self.changed.wait_for(lambda: self._claim_answers or self.is_closed)
            if self.is_closed:
                return HANG_UP
            self.changed.notify_all()
            return self._claim_answers.popleft()

    def _answer_progress(self, path: str, body: Json) -> Answer:
        with self.changed:
            # Whoever sees the request may change the answer to the next one.
            answer = self.progress_answer
            if self.progress_answers:
                answer = self.progress_answers.popleft()
            self._progress_at_once += 1
            self.most_progress_at_once = max(self.most_progress_at_once, self._progress_at_once)
            self.progress.put({"path": path, **body})
            self.changed.wait_for(lambda: not self._holds_progress or self.is_closed)
            self._progress_at_once -= 1
            self.changed.notify_all()
            return answer or (200, self._keep(int(path.split("/")[2]), body))

    def _answer_inventory(self, body: Json) -> Answer:
        answer = self.inventory_answers.popleft() if self.inventory_answers else None
        if answer is None:
            self.inventory_digest = body["digest"]
        self.inventories.put(body)
        return answer or (200, {})

    def _answer_part(self, request: Request) -> Answer:
        task_id, offset = int(request.path.split("/")[2]), int(request.query["offset"])
        with self.changed:
            answer = self.answer_answer
            self._progress_at_once += 1
            self.most_progress_at_once = max(self.most_progress_at_once, self._progress_at_once)
            self.parts.put({**request.query, "size": len(request.body)})
            self.changed.wait_for(lambda: not self._holds_progress or self.is_closed)
            self._progress_at_once -= 1
            kept = self.relayed.get(task_id, b"")
            if answer is None and offset <= len(kept):
                kept += request.body[len(kept) - offset:]
                self.relayed[task_id] = kept
            self.changed.notify_all()
        end = offset + len(request.body)
        is_completed = request.query.get("done") == "true" and len(kept) == end
        return answer or (200, {
            "lease_seconds": 30, "offset": len(kept),
            **({"state": "completed"} if is_completed else {})})

    def _keep(self, task_id: int, body: Json) -> Json:
        text = [(kind, char) for kind in ("thinking", "text") for char in body.get(kind, "")]
        if not text:
            return {"lease_seconds": 30}
        kept = self._kept.setdefault(task_id, [])
        if body["offset"] <= len(kept):
            kept.extend(text[len(kept) - body["offset"]:])
        return {"lease_seconds": 30, "offset": len(kept)}
