"""Relayed tasks, and claims of workers that can run them."""
from __future__ import annotations

from typing import Any, Iterable, Optional

from taskstore import Claim, Submission, Task, TaskStore
from taskstore.names import queue_keys
from tests.support.stores import REQUEST

RELAY = '{"path": "/api/chat", "headers": {}, "stream": true}'
EVERY_BYTE = bytes(range(256)).decode("latin-1")


def relayed(model: str = "llama3", **more: Any) -> Submission:
    return Submission(model, REQUEST, is_plain=False, relay=RELAY, **more)


def submit_relayed(store: TaskStore, **more: Any) -> Task:
    return store.submit(relayed(**more))


def extended_claim(
    store: TaskStore, worker: str = "relayer", models: Iterable[str] = ("llama3",),
    wait_seconds: float = 0.0, **more: Any,
) -> Optional[Task]:
    keys = queue_keys(models, is_extended=True)
    return store.claim(Claim(worker, keys, 30.0, **more), wait_seconds)
