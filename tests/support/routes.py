"""Short ways to be a user or a worker, through Flask's test client; it knows no pytest."""
from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, Dict, Optional, Tuple

import config
from manage_server import create_app
from taskstore import MemoryStore, TaskStore
from tests.support.stores import FakeClock

NOT_FOUND = {"error": "Task not found."}
TOKENS = {"user_tokens": "alice:a,bob:b", "worker_tokens": "gpu-1:w,gpu-2:v"}
ALICE, BOB, GPU_1, GPU_2 = ({"Authorization": f"Bearer {token}"} for token in "abwv")


def make_client(store: Optional[TaskStore] = None, **settings: Any) -> Any:
    """A test client of a new server with these settings."""
    settings_of_server = dataclasses.replace(config.Settings(), **settings)
    return create_app(settings_of_server, store).test_client()


def submit(
    client: Any, prompt: str = "Why?", headers: Optional[Dict[str, str]] = None, **fields: Any
) -> int:
    """Submit a task; return its id."""
    answer = client.post("/submit", json={"prompt": prompt, **fields}, headers=headers)
    assert answer.status_code == 200, answer.get_json()
    return int(answer.get_json()["task_id"])


def claim(client: Any, query: str = "", headers: Optional[Dict[str, str]] = None) -> Dict[str, Any]:
    """Claim a task; return what the worker is given."""
    answer = client.get("/task" + query, headers=headers)
    assert answer.status_code == 200, answer.get_json()
    return dict(answer.get_json())


def submit_and_claim(client: Any, **fields: Any) -> Tuple[int, str]:
    """Submit and claim a task; return its id and the lease_id."""
    submit(client, **fields)
    claimed = claim(client)
    return claimed["task_id"], claimed["lease_id"]


def deliver(client: Any, task_id: int = 1, **outcome: Any) -> int:
    """Deliver an outcome; return the status."""
    return int(client.post("/task", json={"task_id": task_id, **outcome}).status_code)


def result(client: Any, task_id: Any = 1) -> Tuple[int, Any]:
    """The status and body of GET /result."""
    return answer_of(client.get(f"/result/{task_id}"))


def result_text(client: Any, task_id: Any = 1) -> str:
    """The result of a completed task."""
    status, body = result(client, task_id)
    assert (status, list(body)[:2]) == (200, ["task_id", "result"]), body
    assert body["task_id"] == task_id
    return str(body["result"])


def answer_of(answer: Any) -> Tuple[int, Any]:
    """The status and body of an answer, which must be JSON."""
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, json.loads(answer.data)


def refusal(answer: Any, *statuses: int) -> str:
    """The sentence of an error, which must have one of these statuses, or 400."""
    assert answer.status_code in (statuses or (400,)), answer.data[:300]
    assert answer.headers["Content-Type"] == "application/json"
    body = json.loads(answer.data.decode("utf-8"))
    assert list(body) == ["error"]
    sentence = body["error"]
    assert re.match(r"[A-Za-z_'].*\S \S.*\.$", sentence, re.DOTALL), sentence
    assert "Traceback" not in sentence and "<html" not in sentence.lower()
    assert len(sentence) < 1000, "too long to read"
    return str(sentence)


class ServerWithTasks:
    """A server with task 1 claimed and task 2 queued."""

    def __init__(self) -> None:
        self.store = MemoryStore(clock=FakeClock())
        self.client = make_client(self.store, max_request_bytes=2**20, max_result_bytes=2**23)
        self.lease_id = submit_and_claim(self.client, prompt="first")[1]
        submit(self.client, "second")

    def post(self, path: str, data: bytes) -> Any:
        return self.client.post(path, data=data, content_type="application/json")

    def check_nothing_lost(self) -> None:
        """Both tasks are as they were, and the next submission is number 3."""
        assert deliver(self.client, 1, result="So.", lease_id=self.lease_id) == 200
        assert result_text(self.client, 1) == "So."
        second = claim(self.client)
        assert (second["task_id"], second["prompt"], second["attempt"]) == (2, "second", 1)
        assert claim(self.client) == {}
        assert submit(self.client, "third") == 3
