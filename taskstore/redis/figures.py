"""Lists of tasks, counts and usage, as they are read from Redis. It changes nothing.

keys.md describes the keys, and the Lua files the order of arguments and answers.
"""
from __future__ import annotations

from typing import Callable, Dict, FrozenSet, List, Tuple

from ..estimates import Estimates
from ..names import plain_name
from ..snapshots import Availability, bare_snapshot, brief, snapshot
from ..task import FINAL, QUEUED, RUNNING
from ..usage import UsageRow, last_days
from ..views import ModelCounts, OwnerCounts, Snapshot
from .codec import decode_jumps, decode_str, decode_task
from .table import TaskTable

ALL_STATES = frozenset((QUEUED, RUNNING)) | FINAL


class Figures:
    """What users and operators are told of many tasks."""

    def __init__(
        self, table: TaskTable, usage_days: int, wall_clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._usage_days = usage_days
        self._wall_clock = wall_clock

    def list_tasks(
        self, owner: str, states: FrozenSet[str], limit: int, before: int
    ) -> List[Snapshot]:
        _, now, connected, listed, models, jumps = self._table.ask(
            "list", owner, limit, before or "+inf", *sorted(states or ALL_STATES))
        estimates, workers = Estimates(), {}
        for model, connected_with, last_seen_at, too_old, durations in models:
            workers[model] = Availability(
                connected_with, bool(connected), float(last_seen_at) if last_seen_at else None,
                too_old)
            for seconds in durations:
                estimates.record_duration(decode_str(model), float(seconds))
        snapshots = (_snapshot(one, float(now), workers, estimates) for one in listed)
        wall_times = decode_jumps(jumps)
        return [one._replace(wall_times=wall_times) for one in snapshots]

    def counts(self) -> List[ModelCounts]:
        fields = self._table.ask("counts", "")[1]
        counts: Dict[str, Dict[str, int]] = {}
        for field, count in zip(fields[::2], fields[1::2]):
            state, _, key = decode_str(field).partition(":")
            # Tasks of both kinds are counted under one name.
            by_state = counts.setdefault(plain_name(key), {QUEUED: 0, RUNNING: 0})
            by_state[state] += int(count)
        return [ModelCounts(model, counts[model][QUEUED], counts[model][RUNNING])
                for model in sorted(counts)]

    def owner_counts(self, owner: str) -> OwnerCounts:
        return OwnerCounts(*self._table.ask("counts", owner)[2:5])

    def size_bytes(self) -> int:
        return int(self._table.ask("counts", "")[5])

    def usage(self, owner: str, days: int) -> List[UsageRow]:
        names = last_days(self._wall_clock(), min(days, self._usage_days))
        found = self._table.ask("usage", owner, *names)[1]
        return [row for day, fields in zip(names, found) for row in _usage_rows(day, fields)]


def _snapshot(
    listed: Tuple[bytes, int, bytes], now: float, workers: Dict[bytes, Availability],
    estimates: Estimates,
) -> Snapshot:
    fields, position, model = listed
    task = brief(decode_task(fields, b""))
    if task.state in FINAL:
        return bare_snapshot(task, now)
    return snapshot(task, now, position, workers[model], estimates, decode_str(model))


def _usage_rows(day: str, fields: List[bytes]) -> List[UsageRow]:
    values: Dict[str, Dict[str, bytes]] = {}
    for field, value in zip(fields[::2], fields[1::2]):
        kind, _, model = decode_str(field).partition(":")
        values.setdefault(model, {})[kind] = value
    return [UsageRow(day, model, int(of["t"]), int(of["p"]), int(of["a"]), float(of["g"]))
            for model, of in sorted(values.items())]
