"""The body of POST /task/exchange, parsed; this module knows no Flask."""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import config
from taskstore import LeaseId

from . import json_input as values
from .json_input import BadInput
from .tasks import MAX_TASK_ID
from .workers import ClaimRequest, claim_body, lease_id

# A worker has fewer slots, and holds a few tasks for each.
MAX_TASKS = 1000


class Delivery(NamedTuple):
    """An outcome, not parsed, so that one that is malformed spoils no other."""

    fields: Dict[str, Any]
    """A body of POST /task; with an `answer`, the outcome is a whole relayed answer."""
    data: Optional[bytes]
    """The bytes of that answer; None without one."""


class ExchangeRequest(NamedTuple):
    """Everything that a worker has, wants, and has done."""

    claim_request: ClaimRequest
    idle: int
    """How many of its slots have nothing to run."""
    max_prefetched: int
    """How many tasks it may have prefetched."""
    running: Tuple[LeaseId, ...]
    prefetched: Tuple[LeaseId, ...]
    outcomes: List[Delivery]
    only_these: bool
    """Whether these are all tasks of the worker, and others that it was given are lost."""


def exchange(
    fields: Dict[str, Any], attachment: bytes, settings: config.Settings
) -> ExchangeRequest:
    """`attachment` is what comes after the JSON. Raises BadInput."""
    claim_request = claim_body(fields, settings)
    if not claim_request.claim.instance:
        raise BadInput("No instance provided: send a random string that stays the same while the "
                       "worker runs.")
    return ExchangeRequest(
        claim_request, _count(fields, "idle"), _count(fields, "prefetch"),
        _leases(fields, "running"), _leases(fields, "prefetched"),
        _deliveries(_objects(fields, "outcomes"), attachment),
        values.flag(fields, "only_these"),
    )


def _deliveries(outcomes: List[Dict[str, Any]], attachment: bytes) -> List[Delivery]:
    """The outcomes, each answer with its bytes of the attachment."""
    deliveries = []
    end = 0
    for fields in outcomes:
        size_bytes = _answer_bytes(fields)
        data = None if size_bytes is None else attachment[end:end + size_bytes]
        end += size_bytes or 0
        deliveries.append(Delivery(fields, data))
    if end != len(attachment):
        raise BadInput(f"After the line of JSON come {len(attachment)} bytes, but the answers in "
                       f"outcomes have {end} bytes.")
    return deliveries


def _answer_bytes(fields: Dict[str, Any]) -> Optional[int]:
    """How long the answer in an outcome is; None if it has none."""
    answer = fields.get("answer")
    if answer is None:
        return None
    values.check_type("answer", answer, (dict,))
    size_bytes = values.whole_number("bytes", answer.get("bytes"))
    if size_bytes < 0:
        raise BadInput("bytes must be the length of the answer, and not negative.")
    return size_bytes


def _count(fields: Dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if value is None:
        return 0
    number = values.whole_number(key, value)
    if not 0 <= number <= MAX_TASKS:
        raise BadInput(f"{key} must be a whole number from 0 to {MAX_TASKS}.")
    return number


def _leases(fields: Dict[str, Any], key: str) -> Tuple[LeaseId, ...]:
    return tuple(_lease(key, given) for given in _objects(fields, key))


def _lease(key: str, given: Dict[str, Any]) -> LeaseId:
    given_lease_id = lease_id(given)
    if not given_lease_id:
        raise BadInput(f"Everything in {key} must have a task_id and a lease_id.")
    task_id = values.whole_number("task_id", given.get("task_id"))
    return LeaseId(max(-1, min(task_id, MAX_TASK_ID)), given_lease_id)


def _objects(fields: Dict[str, Any], key: str) -> List[Dict[str, Any]]:
    given = fields.get(key)
    if given is None:
        return []
    values.check_type(key, given, (list,))
    if len(given) > MAX_TASKS:
        raise BadInput(f"{key} must be a list of at most {MAX_TASKS} objects.")
    for one in given:
        values.check_type(f"Everything in {key}", one, (dict,))
    return list(given)
