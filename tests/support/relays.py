"""Short ways to be a worker that runs relayed tasks, over any way to send requests."""
from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Optional
from urllib.parse import quote


class RelayedClaim(NamedTuple):
    fields: Dict[str, Any]
    body: bytes

    @property
    def task_id(self) -> int:
        return int(self.fields["task_id"])

    @property
    def relay(self) -> Dict[str, Any]:
        return dict(self.fields["relay"])


class RelayWorker:
    """A worker with models, which is connected once it has claimed.

    `post(path, data)` sends a request and returns status, content type and body.
    """

    def __init__(self, post: Any, models: Optional[List[str]] = None, name: str = "gpu-1",
                 **more: Any) -> None:
        self._post = post
        self.claim_fields = {"worker": name, "instance": name + "-1", "relays": True,
                             "models": models or ["llama3"], "lease": 30, **more}

    def claim(self, wait: float = 0.0) -> Optional[RelayedClaim]:
        """Claim a relayed task; None if there is none."""
        body = json.dumps({**self.claim_fields, "wait": wait}).encode()
        status, content_type, answer = self._post("/task/claim", body)
        assert status == 200, answer
        if content_type.partition(";")[0] != "application/vnd.llm-tasks.relay":
            assert "task_id" not in json.loads(answer), answer
            return None
        line, _, rest = answer.partition(b"\n")
        return RelayedClaim(json.loads(line), rest)

    def claimed(self, wait: float = 30.0) -> RelayedClaim:
        claimed = self.claim(wait)
        assert claimed is not None, "there is no task"
        return claimed

    def begin(self, claimed: RelayedClaim, status: int = 200,
              content_type: str = "application/x-ndjson") -> Delivery:
        return Delivery(self._post, claimed, f"&status={status}&content_type={quote(content_type)}")

    def fail(self, claimed: RelayedClaim, **outcome: Any) -> int:
        body = {"task_id": claimed.task_id, "lease_id": claimed.fields["lease_id"], **outcome}
        return int(self._post("/task", json.dumps(body).encode())[0])

    def answer(self, claimed: RelayedClaim, data: bytes, status: int = 200,
               content_type: str = "application/x-ndjson") -> None:
        """Deliver a whole answer."""
        assert self.begin(claimed, status, content_type).send(data, is_done=True).get(
            "state") == "completed"


class Delivery:
    """An answer as it is delivered."""

    def __init__(self, post: Any, claimed: RelayedClaim, head: str) -> None:
        self._post = post
        self._claimed = claimed
        self._head = head
        self.offset = 0

    def send(self, data: bytes, is_done: bool = False) -> Dict[str, Any]:
        status, answer = self.try_to_send(data, is_done)
        assert status == 200, answer
        self.offset = answer["offset"]
        return answer

    def try_to_send(self, data: bytes, is_done: bool = False, offset: Optional[int] = None) -> Any:
        at = self.offset if offset is None else offset
        query = f"lease_id={self._claimed.fields['lease_id']}&offset={at}"
        query += self._head if at == 0 else ""
        query += "&done=true" if is_done else ""
        path = f"/task/{self._claimed.task_id}/answer?{query}"
        status, _, answer = self._post(path, data)
        return status, json.loads(answer)
