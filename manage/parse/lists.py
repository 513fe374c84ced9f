"""What users ask of lists of their tasks and of their usage, parsed from query strings."""
from __future__ import annotations

from typing import FrozenSet, Mapping, NamedTuple

from taskstore.task import FINAL, QUEUED, RUNNING

from . import json_input as values
from .json_input import BadInput
from .tasks import MAX_TASK_ID

STATES = (QUEUED, RUNNING, *sorted(FINAL))
MAX_LISTED = 200
DEFAULT_LISTED = 50
DEFAULT_DAYS = 30


class ListRequest(NamedTuple):
    """The query string of GET /tasks."""

    states: FrozenSet[str]
    """Empty for all."""
    limit: int
    before: int
    """0 for the newest tasks."""


def task_list(args: Mapping[str, str]) -> ListRequest:
    """Raises BadInput."""
    values.check_parameters(args, ("state", "limit", "before"))
    states = frozenset(filter(None, (name.strip() for name in args.get("state", "").split(","))))
    if not states <= set(STATES):
        raise BadInput(f"state must be some of {', '.join(STATES)}, with commas between them.")
    limit = _number(args, "limit", DEFAULT_LISTED, MAX_LISTED)
    return ListRequest(states, limit, _number(args, "before", 0, MAX_TASK_ID))


def usage_days(args: Mapping[str, str], kept_days: int) -> int:
    """The days of GET /usage, of which so many are kept. Raises BadInput."""
    values.check_parameters(args, ("days",))
    try:
        return _number(args, "days", min(DEFAULT_DAYS, kept_days), kept_days)
    except BadInput as error:
        raise BadInput(f"{str(error).rstrip('.')} (USAGE_DAYS).") from None


def _number(args: Mapping[str, str], key: str, default: int, most: int) -> int:
    text = args.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise BadInput(f"{key} must be a whole number from 1 to {most}.")
    return int(text)
