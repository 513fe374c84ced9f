"""An app with two tasks, and the look of an error."""
from __future__ import annotations

import json
import re
from typing import Any

import config
from manage_server import create_app
from taskstore import Limits, MemoryStore
from tests.support.stores import FakeClock


class Server:
    """An app with task 1 claimed and task 2 queued."""

    def __init__(self) -> None:
        self.store = MemoryStore(Limits(), FakeClock())
        self.client = create_app(config.Settings(), self.store).test_client()
        self.client.post("/submit", json={"prompt": "first"})
        self.client.post("/submit", json={"prompt": "second"})
        self.lease_id = self.client.get("/task?worker=gpu-1").get_json()["lease_id"]

    def post(self, path: str, data: bytes) -> Any:
        return self.client.post(path, data=data, content_type="application/json")

    def check_nothing_lost(self) -> None:
        """Both tasks are as they were, and the next submission is number 3."""
        first = {"task_id": 1, "result": "So.", "lease_id": self.lease_id}
        assert self.client.post("/task", json=first).get_json() == {"message": "Result received."}
        assert self.client.get("/result/1").get_json() == {"task_id": 1, "result": "So."}
        second = self.client.get("/task").get_json()
        assert (second["task_id"], second["prompt"], second["attempt"]) == (2, "second", 1)
        assert self.client.get("/task").get_json() == {}
        submitted = self.client.post("/submit", json={"prompt": "third"}).get_json()
        assert submitted["task_id"] == 3


def refusal(answer: Any, *statuses: int) -> str:
    """The sentence of an error answer."""
    assert answer.status_code in (statuses or (400,)), answer.data[:300]
    assert answer.headers["Content-Type"] == "application/json"
    body = json.loads(answer.data.decode("utf-8"))
    assert list(body) == ["error"]
    sentence = body["error"]
    assert re.match(r"[A-Za-z_].*\S \S.*\.$", sentence, re.DOTALL), sentence
    assert "Traceback" not in sentence and "<html" not in sentence.lower()
    assert len(sentence) < 1000, "too long to be read"
    return str(sentence)
