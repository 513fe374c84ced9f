"""What a task is, and how much memory it takes."""
from __future__ import annotations

import sys
from typing import NamedTuple

from .names import WorkerId, queue_key, worker_label
from .submissions import Submission

QUEUED = "queued"
RUNNING = "running"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
FINAL = frozenset((COMPLETED, FAILED, CANCELLED))

# What `Task.order` of a background task is above its id; a double holds the sum exactly.
BACKGROUND = 1 << 52
# Memory for a task in MemoryStore besides its texts, measured with tracemalloc (`make bench`
# prints it) and rounded up, so that `max_store_bytes` holds.
TASK_OVERHEAD_BYTES = 900


class Task(NamedTuple):
    """A request for a model and its progress. Times are seconds of the store's clock."""

    task_id: int
    model: str
    request: bytes
    """The submitted fields as a JSON object; empty once the task is final."""
    submitted_at: float
    owner: str = ""
    """The user who submitted it, the only one who may see it; empty when users have no names."""
    start_by: float = 0.0
    """The task fails unless an attempt has begun by this time; 0 for no limit."""
    timeout_seconds: float = 0.0
    """The task fails if one attempt takes longer; 0 for no limit."""
    key: str = ""
    digest: bytes = b""
    state: str = QUEUED
    attempt: int = 0
    text_epoch: int = 0
    """Incremented when readers must start over: by each claim, and by a result that differs from
    the text streamed before it."""
    not_before: float = 0.0
    """A queued task cannot be claimed earlier."""
    worker: str = ""
    holder: str = ""
    """The name of the worker token used for the last claim."""
    lease_id: str = ""
    """The lease of the last claim or prefetch, kept after it ends to recognize late outcomes."""
    lease_seconds: float = 0.0
    started_at: float = 0.0
    expires_at: float = 0.0
    """When the lease or the reservation ends or ended; 0 once the worker has failed or released
    the task."""
    finished_at: float = 0.0
    result: str = ""
    """The answer; for a failed task, the part that its last attempt has written."""
    thinking: str = ""
    metrics: str = ""
    error: str = ""
    """Why the task failed or, while it is not final, why its last attempt failed or a worker last
    released it."""
    instance: str = ""
    """The `instance` in the id of the worker that made the last claim."""
    releases: int = 0
    """How often workers have released it for a reason, since an attempt last failed."""
    is_plain: bool = True
    is_background: bool = False
    relay: str = ""
    server: str = ""
    head: str = ""
    """The status and content type of a relayed answer, such as `200 application/x-ndjson`."""
    message: str = ""
    """The whole message of a chat's answer, as a JSON object; empty otherwise."""
    summary: str = ""
    logprobs: str = ""
    is_prefetched: bool = False
    """Whether a worker has prefetched the queued task under `lease_id`, and neither has it begun
    nor has anybody else claimed it: until `expires_at` it is reserved for that worker."""

    @property
    def queue_key(self) -> str:
        return queue_key(self.model, self.is_plain)

    @property
    def order(self) -> int:
        """Its place among the tasks of its owner: foreground tasks are below BACKGROUND."""
        return self.task_id + (BACKGROUND if self.is_background else 0)

    @property
    def worker_id(self) -> WorkerId:
        """The worker of the last claim."""
        return WorkerId(self.holder, self.worker, self.instance)

    @property
    def needed_ability(self) -> str:
        """What a worker must be able to do that runs a task which is not plain."""
        return "relay requests" if self.relay else "run chats"

    @property
    def worker_label(self) -> str:
        """The worker of the last claim, as people are shown it."""
        return worker_label(self.worker, self.holder)

    @classmethod
    def queued(cls, task_id: int, submission: Submission, now: float) -> Task:
        """Return a new task."""
        return cls(
            task_id, submission.model, submission.request, submitted_at=now,
            owner=submission.owner, timeout_seconds=submission.timeout_seconds,
            start_by=now + submission.ttl_seconds if submission.ttl_seconds else 0.0,
            key=submission.key, digest=submission.digest, is_plain=submission.is_plain,
            is_background=submission.is_background, relay=submission.relay,
            server=submission.server, summary=submission.summary,
        )


def task_bytes(task: Task) -> int:
    """Return the memory that a task takes up, rounded up."""
    texts = (task.result, task.thinking, task.metrics, task.error, task.model, task.key,
             task.relay, task.head, task.message, task.summary, task.logprobs)
    return TASK_OVERHEAD_BYTES + len(task.request) + sum(map(sys.getsizeof, filter(None, texts)))
