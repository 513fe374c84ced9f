"""What one exchange with the Manage Server says, and what is answered to it. It sends nothing."""
from __future__ import annotations

from typing import Any, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence

from transport.answers import Answer, read_number, read_text, read_whole_number
from transport.sessions import to_json
from worker.protocol.task import Lease, Malformed, Task, parse_task

Json = Dict[str, Any]

# A line of JSON, and after it the bytes of relayed answers.
WITH_ATTACHMENTS = "application/vnd.llm-tasks.exchange"
# Of outcomes in one request; all others go one by one, as they always have.
MAX_OUTCOME_BYTES = 64 * 1024
MAX_OUTCOMES = 100
MAX_OUTCOMES_BYTES = 1024 * 1024
# No server asks for a task to begin later than this.
MAX_BEGIN_WITHIN_SECONDS = 3600.0


class Outcome(NamedTuple):
    """An outcome to deliver; `data` is the JSON of a body of POST /task, or of a whole answer."""

    lease: Lease
    data: bytes
    # The bytes of a whole answer, and what delivers it with a client where exchanges can't.
    attachment: bytes = b""
    deliver_answer: Optional[Callable[[Any], None]] = None
    # Whether it only gives back a task that this worker has not run.
    is_return: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.data) + len(self.attachment)


class Exchange(NamedTuple):
    """All that a worker has and wants at one moment."""

    wait_seconds: float = 0.0
    # How many slots have nothing to run, and how many tasks it may have in advance.
    idle: int = 0
    prefetch: int = 0
    running: Sequence[Lease] = ()
    prefetched: Sequence[Lease] = ()
    outcomes: Sequence[Outcome] = ()
    # Whether the server must take back all other tasks that it has given to this worker.
    only_these: bool = False

    def to_bytes(self, claim: Mapping[str, Any]) -> bytes:
        """Return the request's body, of type `media_type`; `claim` is what a claim says of the
        worker."""
        data = to_json({
            **claim, "wait": self.wait_seconds, "idle": self.idle, "prefetch": self.prefetch,
            "running": _leases(self.running), "prefetched": _leases(self.prefetched),
            **({"only_these": True} if self.only_these else {})})
        if not self.outcomes:
            return data
        outcomes = b", ".join(outcome.data for outcome in self.outcomes)
        line = b'%b, "outcomes": [%b]}' % (data[:-1], outcomes)
        attachments = b"".join(outcome.attachment for outcome in self.outcomes)
        return line + b"\n" + attachments if attachments else line

    @property
    def media_type(self) -> str:
        has_attachments = any(outcome.attachment for outcome in self.outcomes)
        return WITH_ATTACHMENTS if has_attachments else "application/json"


class Given(NamedTuple):
    """A task that an answer has brought; a prefetched one must begin soon, or not at all."""

    task: Task
    begin_within_seconds: Optional[float]


class Verdict(NamedTuple):
    """What became of an outcome."""

    status: int
    reason: str


class ExchangeAnswer(NamedTuple):
    """The answer to an exchange."""

    verdicts: Sequence[Verdict] = ()
    lost: FrozenSet[int] = frozenset()
    given: Sequence[Given] = ()
    # Of tasks that can't be run: what is wrong with them.
    problems: Sequence[str] = ()
    is_inventory_wanted: bool = False
    models_ignored: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether it tells nothing, as when there is no task."""
        return not (self.verdicts or self.lost or self.given or self.problems
                    or self.is_inventory_wanted)


def parse_exchange(answer: Answer, exchange: Exchange) -> ExchangeAnswer:
    """Return what an answer of the Manage Server says. Raises Malformed."""
    body = answer.body
    verdicts = [Verdict(int(read_number(item, "status") or 0), read_text(item, "error"))
                for item in _objects(body, "outcomes")]
    if len(verdicts) != len(exchange.outcomes):
        raise Malformed("it does not say what became of each outcome")
    lost = body.get("lost")
    given: List[Given] = []
    problems: List[str] = []
    _parse_tasks(answer, given, problems)
    return ExchangeAnswer(
        verdicts, frozenset(item for item in lost if type(item) is int)
        if isinstance(lost, list) else frozenset(), given, problems,
        bool(body.get("inventory_wanted")), int(read_number(body, "models_ignored") or 0))


def _parse_tasks(answer: Answer, given: List[Given], problems: List[str]) -> None:
    """Add the tasks in an answer, and what is wrong with those that are none.

    Raises Malformed if the bytes behind the first line are not theirs.
    """
    common = {key: answer.body[key] for key in ("max_result_bytes",) if key in answer.body}
    offset = 0
    for fields in _objects(answer.body, "tasks"):
        size = read_whole_number(fields, "body_bytes", len(answer.attachment) - offset) or 0
        if size == 0 and fields.get("body_bytes", 0) != 0:
            raise Malformed("it does not have all of its tasks")
        attachment = answer.attachment[offset:offset + size]
        offset += size
        try:
            task = parse_task({**common, **fields}, attachment)
            if task.lease.lease_id is None:
                raise Malformed(f"task {task.lease.task_id} has no lease_id")
            given.append(Given(task, _begin_within(fields)))
        except Malformed as error:
            problems.append(str(error))


def _begin_within(fields: Mapping[str, Any]) -> Optional[float]:
    if "begin_within" not in fields:
        return None
    # One that can't be read is over.
    return min(read_number(fields, "begin_within") or 0.0, MAX_BEGIN_WITHIN_SECONDS)


def _objects(body: Mapping[str, Any], key: str) -> List[Json]:
    value = body.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _leases(leases: Sequence[Lease]) -> List[Json]:
    return [{"task_id": lease.task_id, "lease_id": lease.lease_id} for lease in leases]
