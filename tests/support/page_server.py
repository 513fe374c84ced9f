"""The real page in front of an API whose answers a test writes; it knows no browser."""
from __future__ import annotations

import datetime
import itertools
import json
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from tests.support.routes import make_client
from tests.support.stub_server import SOON_SECONDS, Answer, Json, Request, StubServer

# A proxy lost the connection to the server, which has the request all the same.
LOST: Answer = (502, "Bad Gateway", {"Content-Type": "text/html"})
NOT_FOUND: Answer = (404, {"error": "Task not found."})
FINAL = ("completed", "failed", "cancelled")
TOKEN = "sunny-otter"


def ago(seconds: float) -> str:
    """A time in the past, as the server writes it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return (now - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Event(NamedTuple):
    name: str
    data: Json
    # Characters of the answer up to here; 0 if the event is no part of it.
    offset: int = 0

    def encode(self) -> bytes:
        name = f"event: {self.name}\n" if self.name else ""
        event_id = f"id: {self.offset}\n" if self.offset else ""
        return f"{name}{event_id}data: {json.dumps(self.data)}\n\n".encode()


class StubTask:
    """A task, which the test writes; the server sends what has been written."""

    def __init__(self, server: PageServer, task_id: int, summary: str, **fields: Any) -> None:
        self._server = server
        self.task_id = task_id
        self.fields: Json = {
            "task_id": task_id, "state": "queued", "model": "llama3:latest", "summary": summary,
            "result_start": None, "error": None, "queue_position": 1, "waiting_for": "a worker",
            "eta_seconds": None, "attempt": 0, "worker": None, "background": False, "path": None,
            "submitted_at": ago(60), "started_at": None, "finished_at": None, **fields,
        }
        self.events: List[Event] = []
        self._offset = 0

    @property
    def state(self) -> str:
        return str(self.fields["state"])

    def wait_in_queue(self, position: int, waiting_for: str = "a worker") -> None:
        place = {"queue_position": position, "waiting_for": waiting_for}
        self._change(Event("queued", place), **place)

    def start(self) -> None:
        """Begin an attempt."""
        self._offset = 0
        attempt = self.fields["attempt"] + 1
        self._change(Event("attempt", {"attempt": attempt}), state="running", attempt=attempt,
                     queue_position=None, waiting_for=None, started_at=ago(0))

    def think(self, text: str) -> None:
        self._write("thinking", {"thinking": text})

    def write(self, text: str) -> None:
        self._write("", {"text": text})

    def complete(self, **metrics: Any) -> None:
        self._end("completed", status="Completed.", **metrics)

    def fail(self, error: str) -> None:
        self._end("failed", status="Failed.", error=error)

    def cancel(self) -> None:
        self._end("cancelled", status="Cancelled.", error="The task was cancelled.")

    def events_after(self, last_event_id: str) -> List[Event]:
        """The events that a reader has not seen yet; the last attempt has all of the text."""
        starts = [number for number, event in enumerate(self.events) if event.name == "attempt"]
        latest = self.events[starts[-1] if starts else 0:]
        offset = int(last_event_id or 0)
        return [event for event in latest if not offset or event.offset > offset
                or event.name in FINAL]

    def _write(self, name: str, data: Json) -> None:
        self._offset += sum(map(len, data.values()))
        self._change(Event(name, data, self._offset))

    def _end(self, state: str, **data: Any) -> None:
        self._change(
            Event(state, {"task_id": self.task_id, **data}), state=state, queue_position=None,
            waiting_for=None, error=data.get("error"), finished_at=ago(0))

    def _change(self, event: Event, **fields: Any) -> None:
        with self._server.changed:
            self.events.append(event)
            self.fields.update(fields)
            self._server.changed.notify_all()


class PageServer(StubServer):
    """Serves the page as the Manage Server does, and an API with these tasks."""

    def __init__(self) -> None:
        self.tasks: Dict[int, StubTask] = {}
        # Without one, the server is open.
        self.token = ""
        self.submissions: List[Json] = []
        self.submission_keys: List[str] = []
        # Used up before anything else is answered to submissions.
        self.submission_answers: List[Answer] = []
        # Path and Last-Event-ID of each request for a stream.
        self.stream_requests: List[Tuple[str, str]] = []
        self.deleted: List[int] = []
        self.refused_deletions = 0
        self.kept_days = 90
        self.usage: List[Json] = []
        self.models: List[Json] = [
            {"name": "llama3:latest", "details": {"parameter_size": "8.0B"}},
            {"name": "qwen3:4b", "details": {"parameter_size": "4.0B"}}]
        self.loaded: List[Json] = [
            {"name": "qwen3:4b", "size_vram": 3 * 2 ** 30,
             "details": {"parameter_size": "4.0B", "quantization_level": "Q4_K_M"}}]
        self.may_list_models = threading.Event()
        self.may_list_models.set()
        self.workers: List[Json] = [
            {"worker": "gpu-1", "connected": True, "last_seen_seconds": 0.4,
             "models": ["llama3:latest", "qwen3:4b"], "relays": True}]
        self.relayed_results: Dict[int, Json] = {}
        self._numbers = itertools.count(1)
        self._pages = make_client()
        super().__init__()
        self.headers["Llm-Tasks"] = "1"

    def add_task(self, summary: str, **fields: Any) -> StubTask:
        """A task that was submitted elsewhere."""
        with self.changed:
            task = StubTask(self, next(self._numbers), summary, **fields)
            self.tasks[task.task_id] = task
            return task

    def next_task(self) -> StubTask:
        """Wait until the page has submitted a task that no test has asked for yet."""
        self.wait_until(lambda: any(not hasattr(task, "is_known") for task in self._submitted()))
        task = next(task for task in self._submitted() if not hasattr(task, "is_known"))
        task.is_known = True  # type: ignore[attr-defined]
        return task

    def hang_up_on_all(self) -> None:
        """Cut all connections, as a network does."""
        with self.changed:
            for connection in self.connections:
                connection.shutdown(2)

    def answer(self, request: Request) -> Optional[Answer]:
        if request.path == "/" or request.path.startswith("/page/"):
            return self._answer_page(request)
        if self.token and request.headers["Authorization"] != f"Bearer {self.token}":
            return 401, {"error": "Unknown or revoked token."}
        if request.path == "/submit":
            return self._answer_submission(request)
        if request.path.startswith("/result/"):
            return self._answer_result(request)
        return self._answer_list(request)

    def _submitted(self) -> List[StubTask]:
        return [task for task in self.tasks.values() if hasattr(task, "key")]

    def _answer_page(self, request: Request) -> Answer:
        answer = self._pages.get(request.path, headers={"Accept": request.headers["Accept"]})
        kept = {name: value for name, value in answer.headers.items() if name != "Content-Length"}
        return answer.status_code, answer.data, kept

    def _answer_submission(self, request: Request) -> Answer:
        key = request.headers["Idempotency-Key"]
        with self.changed:
            self.submissions.append(request.json)
            self.submission_keys.append(key)
            answer = self.submission_answers.pop(0) if self.submission_answers else None
            if answer in (None, LOST):
                self._accept(request.json, key)
            task_id = next((task.task_id for task in self._submitted() if task.key == key), 0)
            self.changed.notify_all()
        return answer or (200, {"task_id": task_id, "status": "Task submitted."})

    def _accept(self, submission: Json, key: str) -> None:
        if key not in [task.key for task in self._submitted()]:
            prompt = submission["messages"][-1]["content"]
            task = StubTask(self, next(self._numbers), prompt[:200],
                            model=submission.get("model", "llama3"))
            task.key = key  # type: ignore[attr-defined]
            self.tasks[task.task_id] = task

    def _answer_result(self, request: Request) -> Optional[Answer]:
        task_id = int(request.path.split("/")[2])
        task, key = self.tasks.get(task_id), request.headers["Idempotency-Key"]
        if task is None or key not in (None, getattr(task, "key", None)):
            return NOT_FOUND
        if request.path.endswith("/stream"):
            if task_id in self.relayed_results:
                return 409, {"error": "A relayed task has no stream."}
            self._stream(request, task)
            return None
        if request.method == "DELETE":
            return self._answer_deletion(task, request.query.get("only", ""))
        if task_id in self.relayed_results:
            return 200, {"task_id": task_id, **self.relayed_results[task_id]}
        if task.state in FINAL:
            return 200, {"task_id": task_id, "result": "So."}
        return 202, {"task_id": task_id, "status": "Processing...", "state": task.state}

    def _answer_deletion(self, task: StubTask, only: str) -> Answer:
        with self.changed:
            is_final = task.state in FINAL
            if only != ("erase" if is_final else "cancel"):
                self.refused_deletions += 1
                return 409, {"error": f"The task is {task.state}."}
            self.deleted.append(task.task_id)
            if is_final:
                del self.tasks[task.task_id]
            self.changed.notify_all()
        if not is_final:
            task.cancel()
        return 200, {"task_id": task.task_id, "status": "Erased." if is_final else "Cancelled."}

    def _stream(self, request: Request, task: StubTask) -> None:
        last_event_id = request.headers["Last-Event-ID"] or ""
        with self.changed:
            self.stream_requests.append((request.path, last_event_id))
            self.changed.notify_all()
        request.start_stream("text/event-stream")
        request.send_chunk(b"retry: 50\n\n")
        events = task.events_after(last_event_id)
        sent = len(task.events)
        while True:
            for event in events:
                request.send_chunk(event.encode())
            if events and events[-1].name in FINAL:
                return request.send_chunk(b"")
            with self.changed:
                self.changed.wait_for(lambda n=sent: len(task.events) > n or self.is_closed
                                      or self.is_down)
                if self.is_closed or self.is_down:
                    return request.hang_up()
                events, sent = task.events[sent:], len(task.events)

    def _answer_list(self, request: Request) -> Answer:
        query = request.query
        if request.path == "/api/tags":
            self.may_list_models.wait(SOON_SECONDS)
        if request.path == "/tasks":
            return self._answer_tasks(query)
        states = [task.state for task in self.tasks.values()]
        counts = {"queued": states.count("queued"), "running": states.count("running"),
                  "finished": sum(states.count(state) for state in FINAL)}
        answers: Dict[str, Json] = {
            "/usage": {"days": int(query.get("days", min(30, self.kept_days))),
                       "kept_days": self.kept_days, "usage": self.usage},
            "/api/tags": {"models": self.models},
            "/api/ps": {"models": self.loaded},
            "/status": {**counts, "workers": self.workers},
        }
        return (200, answers[request.path]) if request.path in answers else NOT_FOUND

    def _answer_tasks(self, query: Dict[str, str]) -> Answer:
        limit, before = int(query.get("limit", 50)), int(query.get("before", 0))
        with self.changed:
            listed = [dict(task.fields) for number, task in sorted(self.tasks.items(), reverse=True)
                      if not before or number < before]
        return 200, {"tasks": listed[:limit], "more": len(listed) > limit}
