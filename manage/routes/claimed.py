"""Claimed tasks as workers are sent them; this module knows no path."""
from __future__ import annotations

import json
from typing import Any, Dict, List, Sequence

from manage.json_output import dump_json
from manage.parse.workers import ClaimRequest
from taskstore import Task, TaskStore, WorkerId

# The first line is a JSON object, and all after it the body for Ollama.
RELAYED_CLAIM = "application/vnd.llm-tasks.relay"

# Only what is shorter is copied, so that it can be sent at once.
MAX_JOINED_BYTES = 16 * 1024


def claimed_fields(task: Task) -> Dict[str, Any]:
    """Return the fields of a task and its lease; of a relayed task, all but its body."""
    lease = {"lease_id": task.lease_id, "lease_seconds": task.lease_seconds,
             "attempt": task.attempt}
    if task.relay:
        return {"task_id": task.task_id, "model": task.model, "relay": json.loads(task.relay),
                **lease}
    submitted = json.loads(task.request)
    # A chat has messages in place of a prompt.
    prompt = {"prompt": submitted.pop("prompt")} if "prompt" in submitted else {}
    first = {"task_id": task.task_id, **prompt, "model": submitted.pop("model")}
    return {**first, **submitted, **lease}


def with_bodies(fields: Dict[str, Any], tasks: Sequence[Task]) -> List[bytes]:
    """Return an answer with the fields on a line of JSON, and after it the bodies of relayed tasks,
    which would be longer in JSON."""
    bodies = [task.request for task in tasks if task.relay]
    parts = [dump_json(fields) + b"\n", *bodies]
    if sum(map(len, parts)) <= MAX_JOINED_BYTES:
        # The worker would wake for the line, and once more for what follows.
        parts = [b"".join(parts)]
    return parts


def take_inventory(
    store: TaskStore, claim_request: ClaimRequest, worker: WorkerId
) -> Dict[str, Any]:
    """Note what a worker says of its models; return what the answer says of that."""
    if claim_request.loaded is not None:
        store.set_loaded(worker, claim_request.loaded)
    digest = claim_request.inventory
    is_wanted = digest and store.inventory_digest(worker) != digest
    return {"inventory_wanted": True} if is_wanted else {}
