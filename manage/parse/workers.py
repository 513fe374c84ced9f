"""What workers send, parsed from bodies and query strings; it knows no Flask."""
from __future__ import annotations

from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

import config
from taskstore import ANSWER, THINKING, Claim, Outcome, Piece
from taskstore.limits import MAX_MODELS_PER_CLAIM
from taskstore.names import model_key, queue_keys

from . import json_input as values
from .figures import metrics
from .inventories import digest, loaded_models
from .json_input import BadInput
from .tasks import MAX_TASK_ID, wait_seconds

MAX_LEASE_ID_LENGTH = 100
# What a name takes in memory besides its characters, and the names that one held claim may have.
NAME_BYTES = 100
PLACE_BYTES = 256 * 1024


class ClaimRequest(NamedTuple):
    """The parameters of GET /task, or the body of POST /task/claim."""

    claim: Claim
    wait_seconds: float
    is_check: bool = False
    """Nothing is to be claimed: the worker only tries whether it could."""
    models_ignored: int = 0
    """How many of the names count for nothing."""
    inventory: str = ""
    """The digest of the worker's inventory; empty if it has none."""
    loaded: Optional[bytes] = None
    """The models that it has loaded, as a JSON list; None if it did not say."""

    @property
    def places(self) -> int:
        """How many places it takes while it is held; more than one only with many models."""
        names = self.claim.models or ()
        size_bytes = len("".join(names).encode("utf-8", "surrogatepass"))
        return 1 + (size_bytes + len(names) * NAME_BYTES) // PLACE_BYTES


class LeaveRequest(NamedTuple):
    """The body of POST /task/leave."""

    worker: str
    instance: str


class OutcomeRequest(NamedTuple):
    """The body of POST /task."""

    task_id: int
    lease_id: str
    outcome: Outcome


class ProgressRequest(NamedTuple):
    """The body of POST /task/<id>/progress; the pieces begin at `offset` of the text."""

    lease_id: str
    offset: int
    pieces: List[Piece]


def claim(args: Mapping[str, str], settings: config.Settings) -> ClaimRequest:
    """The query string of GET /task; `lease` defaults to LEASE_SECONDS, and may not exceed it."""
    models = args.get("models")
    keys, ignored = (None, 0) if models is None else _models(models.split(","))
    claim = Claim(
        worker=_worker(args.get("worker")),
        models=keys,
        lease_seconds=_lease_seconds(
            values.seconds(args, "lease", settings.lease_seconds), settings),
    )
    return ClaimRequest(claim, wait_seconds(args, settings), models_ignored=ignored)


def claim_body(fields: Dict[str, Any], settings: config.Settings) -> ClaimRequest:
    """The body of POST /task/claim, with the same defaults and limits as GET /task."""
    models = fields.get("models")
    if models is not None:
        values.check_type("models", models, (list,))
    relays = values.flag(fields, "relays")
    keys, ignored = (None, 0) if models is None else _models(models, relays)
    loaded, loaded_names = loaded_models(fields.get("loaded"))
    claim = Claim(
        worker=_worker(fields.get("worker")),
        instance=_instance(fields.get("instance")),
        models=keys,
        prefers=_models(loaded_names, relays)[0],
        lease_seconds=_lease_seconds(
            values.seconds_field(fields, "lease", settings.lease_seconds), settings),
    )
    wait_seconds = values.seconds_field(fields, "wait", 0.0)
    return ClaimRequest(
        claim, min(wait_seconds, settings.max_wait_seconds), values.flag(fields, "check"), ignored,
        digest(fields, "inventory"), loaded,
    )


def leave(fields: Dict[str, Any]) -> LeaveRequest:
    """The body of POST /task/leave."""
    return LeaveRequest(_worker(fields.get("worker")), _instance(fields.get("instance")))


def outcome(fields: Dict[str, Any]) -> OutcomeRequest:
    """The body of POST /task."""
    result, error, release = (fields.get(key) for key in ("result", "error", "release"))
    if release is False:
        release = None
    # With release, error says why.
    given = [result, error] if release is None else [result, release]
    if given.count(None) != 1:
        raise BadInput("Send exactly one of result (text), error (text) and release (true, perhaps "
                       "with an error that says why).")
    for key, value, kind in (("result", result, str), ("error", error, str),
                             ("release", release, bool)):
        if value is not None:
            values.check_type(key, value, (kind,))
    for text in (result, error):
        values.check_text(text or "")
    outcome = Outcome(
        result=result, error=error, retry=values.flag(fields, "retry"),
        thinking=values.text(fields, "thinking"), metrics=metrics(fields.get("metrics")),
        message=_message(fields.get("message")), logprobs=_logprobs(fields.get("logprobs")),
    )
    if release:
        outcome = Outcome(release_reason=error or "")
    return OutcomeRequest(task_id_field(fields), lease_id(fields), outcome)


def progress(fields: Dict[str, Any]) -> ProgressRequest:
    """The body of POST /task/<id>/progress."""
    given = lease_id(fields)
    if not given:
        raise BadInput("No lease_id provided.")
    pieces = [Piece(kind, values.text(fields, kind)) for kind in (THINKING, ANSWER)]
    pieces = [piece for piece in pieces if piece.text]
    offset = values.whole_number("offset", fields.get("offset", None if pieces else 0))
    if offset < 0:
        raise BadInput("offset must be the number of characters sent before, and not negative.")
    return ProgressRequest(given, offset, pieces)


def lease_id(fields: Dict[str, Any]) -> str:
    """The lease_id; empty if there is none."""
    value = fields.get("lease_id")
    if value is None:
        return ""
    values.check_type("lease_id", value, (str,))
    if not 0 < len(value) <= MAX_LEASE_ID_LENGTH:
        raise BadInput("lease_id must be the one returned by the claim.")
    return str(value)


def task_id_field(fields: Dict[str, Any]) -> int:
    """The task_id, or one that no task has if it is out of range."""
    if "task_id" not in fields:
        raise BadInput("No task_id provided.")
    return max(-1, min(values.whole_number("task_id", fields["task_id"]), MAX_TASK_ID))


def _message(value: Any) -> str:
    if value is None:
        return ""
    values.check_type("message", value, (dict,))
    return values.dump(value).decode()


def _logprobs(value: Any) -> str:
    if value is None:
        return ""
    values.check_type("logprobs", value, (list,))
    return values.dump(value).decode() if value else ""


def _models(names: Iterable[Any], is_extended: bool = False) -> Tuple[FrozenSet[str], int]:
    """The queue keys of the models that a task may name, and how many names are none of these.

    A worker may have such models for other purposes.
    """
    keys: Set[str] = set()
    ignored = 0
    for name in names:
        name = name.strip() if isinstance(name, str) else ""
        key = model_key(name) if values.is_name(name) else ""
        if key and (key in keys or len(keys) < MAX_MODELS_PER_CLAIM):
            keys.add(key)
        else:
            ignored += 1
    return queue_keys(keys, is_extended), ignored


def _worker(name: Any) -> str:
    return "unnamed" if name is None or name == "" else values.name("worker", name)


def _instance(instance: Any) -> str:
    return "" if instance is None or instance == "" else values.name("instance", instance)


def _lease_seconds(lease_seconds: float, settings: config.Settings) -> float:
    if lease_seconds < 1:
        raise BadInput("lease must be at least 1 second.")
    return min(lease_seconds, settings.lease_seconds)
