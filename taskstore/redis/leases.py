"""Many leases of a worker in Redis: which are lost, and renewing them in few round trips. It does
not know who waits."""
from __future__ import annotations

import contextlib
import time
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from .. import tasks
from ..claims import LeaseId
from ..errors import LeaseLost, TaskNotFound
from ..task import Task
from .codec import Stored
from .moving import Moving
from .remembered import Known, RememberedTasks
from .table import OK, TaskTable, new_version


class _Renewal(NamedTuple):
    known: Known
    new: Task
    version: str


class Leases:
    """Tasks that are doubtful, as when somebody else changes them, are renewed one by one."""

    def __init__(self, table: TaskTable, remembered: RememberedTasks, moving: Moving) -> None:
        self._table = table
        self._remembered = remembered
        self._moving = moving

    def lost(self, leases: Sequence[LeaseId], holder: str) -> List[int]:
        """See TaskStore.lost_leases."""
        found = self._read([lease.task_id for lease in leases], False)
        return [lease.task_id for lease in leases
                if self._is_lost(found.get(lease.task_id), lease, holder)]

    def renew_all(self, leases: Sequence[LeaseId], holder: str) -> List[int]:
        """See TaskStore.renew_all."""
        recalled, read = self._recall_or_read({lease.task_id for lease in leases})
        renewals: Dict[LeaseId, _Renewal] = {}
        doubtful: List[LeaseId] = []
        for lease in dict.fromkeys(leases):
            known = recalled.get(lease.task_id) or read.get(lease.task_id)
            if known is None:
                continue
            new = self._renewed(known.stored, lease, holder)
            if new is not None:
                renewals[lease] = _Renewal(known, new, new_version())
            elif lease.task_id in recalled or not self._table.is_settled(known.stored):
                doubtful.append(lease)
        doubtful += self._commit(renewals)
        held = {*renewals, *(lease for lease in doubtful if self._can_renew(lease, holder))}
        return [lease.task_id for lease in leases if lease not in held]

    def _commit(self, renewals: Dict[LeaseId, _Renewal]) -> List[LeaseId]:
        """Store renewals; remove and return those whose task somebody else has changed."""
        outcomes = self._table.commit_all([
            (known.stored, new, version) for known, new, version in renewals.values()])
        changed = [lease for lease, outcome in zip(renewals, outcomes) if outcome != OK]
        for lease in changed:
            del renewals[lease]
        for known, new, version in renewals.values():
            self._remembered.add(known, new, version)
        return changed

    def _recall_or_read(
        self, task_ids: Set[int]
    ) -> Tuple[Dict[int, Known], Dict[int, Known]]:
        """The tasks that there are, those that this process remembers and the others."""
        found = [(task_id, self._remembered.take(task_id)) for task_id in sorted(task_ids)]
        recalled = {task_id: known for task_id, known in found if known is not None}
        read_at = time.monotonic()
        read = self._read([task_id for task_id, known in found if known is None], True)
        return recalled, {
            task_id: Known.read(stored, read_at) for task_id, stored in read.items()}

    def _read(self, task_ids: List[int], with_requests: bool) -> Dict[int, Stored]:
        if not task_ids:
            return {}
        _, answers = self._table.ask("leases", int(with_requests), *task_ids)
        found = map(Stored.decode, filter(None, answers))
        return {stored.task.task_id: stored for stored in found}

    def _is_lost(self, stored: Optional[Stored], lease: LeaseId, holder: str) -> bool:
        if stored is None or holder not in ("", stored.task.holder):
            return True
        return tasks.is_lost(self._table.aged(stored), lease.lease_id)

    def _renewed(self, stored: Stored, lease: LeaseId, holder: str) -> Optional[Task]:
        """The task with its lease renewed; None if that is lost or not sure."""
        if not self._table.is_settled(stored):
            return None
        with contextlib.suppress(LeaseLost):
            return tasks.renew(
                tasks.check_holder(stored.task, holder), stored.now, lease.lease_id)
        return None

    def _can_renew(self, lease: LeaseId, holder: str) -> bool:
        with contextlib.suppress(LeaseLost, TaskNotFound):
            self._moving.move(
                lease.task_id,
                lambda task, now: tasks.renew(
                    tasks.check_holder(task, holder), now, lease.lease_id), True)
            return True
        return False
