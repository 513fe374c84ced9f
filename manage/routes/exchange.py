"""/task/exchange: a worker says in one request what it has, what it wants and what it has done."""
from __future__ import annotations

import time
from typing import Any, Dict, List

from manage.answers import refusal
from manage.auth.tokens import WORKER_TOKEN
from manage.context import Context
from manage.gateway.delivery import append_part
from manage.json_output import dump_json
from manage.parse import relays as parse_relays
from manage.parse.body import BodyTooLarge
from manage.parse.exchanges import Delivery, ExchangeRequest
from manage.parse.exchanges import exchange as parse_exchange
from manage.parse.json_input import BadInput
from manage.parse.workers import task_id_field
from manage.serving.connections import disconnect_check
from manage.wsgi import WsgiAnswer, WsgiRequest
from taskstore import (
    WATCHES,
    Claim,
    LeaseLost,
    StoreDown,
    Task,
    TaskStore,
    TaskStoreError,
)
from taskstore.tasks import PREFETCH_SECONDS

from .claimed import claimed_fields, take_inventory, with_bodies
from .registry import Routes
from .workers import deliver

# Like the claim of a relayed task, but with the bodies of several, one after the other. A request
# of this type has relayed answers in the same way.
EXCHANGE = "application/vnd.llm-tasks.exchange"
# Once the requests of its tasks have this size, an answer gets no more of them.
MAX_TASKS_BYTES = 1024 * 1024

# In this time before its reservation ends, a worker can give back a task that it has not begun.
GIVE_BACK_SECONDS = 1.0

routes = Routes()


@routes.direct("/task/exchange", needs=WORKER_TOKEN)
def exchange(context: Context, sent: WsgiRequest) -> WsgiAnswer:
    came_at = time.monotonic()
    store, caller = context.store, sent.caller
    media_type = (sent.header("Content-Type") or "").partition(";")[0].strip().lower()
    with context.bodies.exchange(sent.body, media_type == EXCHANGE) as (fields, attachment):
        asked = parse_exchange(fields, attachment, context.settings)
        claim = asked.claim_request.claim._replace(
            holder=caller, is_disconnected=disconnect_check(sent.environ), replaces=True,
            watched=(*asked.running, *asked.prefetched))
        worker = claim.worker_id
        store.end_claims(worker)
        answers = [_deliver(context, one, caller) for one in asked.outcomes]
    if asked.only_these:
        store.release_others(worker, claim.watched)
    lost = store.renew_all(asked.running, caller)
    lost += store.lost_leases(asked.prefetched, caller)
    notice = take_inventory(store, asked.claim_request, worker)
    supply = _Supply(store, asked, claim, came_at)
    supply.claim_all()
    if not (answers or lost or supply.tasks or notice):
        with context.held_requests.hold(
            asked.claim_request.wait_seconds, caller, is_worker=True,
            places=asked.claim_request.places,
        ) as wait_seconds:
            supply.wait(wait_seconds)
        lost = store.lost_leases(claim.watched, caller)
    if asked.claim_request.models_ignored:
        notice["models_ignored"] = asked.claim_request.models_ignored
    body = {"outcomes": answers, "lost": lost, "tasks": supply.fields(),
            "max_result_bytes": context.settings.max_result_bytes, **notice}
    if any(task.relay for task in supply.tasks):
        return WsgiAnswer(with_bodies(body, supply.tasks), EXCHANGE)
    return WsgiAnswer([dump_json(body) + b"\n"])


def _deliver(context: Context, outcome: Delivery, sender: str) -> Dict[str, Any]:
    """Deliver one of the outcomes, and return what the request of its own would have answered."""
    try:
        if outcome.data is None:
            deliver(context, outcome.fields, sender)
        else:
            _deliver_answer(context, outcome.fields, outcome.data, sender)
    except StoreDown:
        raise  # The worker repeats all of them.
    except (BadInput, BodyTooLarge, TaskStoreError) as error:
        sentence, status = refusal(error)
        return {"status": status, "error": sentence}
    context.health.report_write()
    return {"status": 200}


def _deliver_answer(
    context: Context, fields: Dict[str, Any], data: bytes, sender: str
) -> None:
    """Complete a relayed task with all of its answer."""
    part = parse_relays.whole_answer(fields, data)
    _, length = append_part(context.store, task_id_field(fields), part, sender,
                            context.settings.max_result_bytes)
    if length != part.end:
        raise LeaseLost("The server has more of an answer to this task already.")


class _Supply:
    """The tasks that a worker gets: to run at once for its idle slots, and in advance."""

    def __init__(
        self, store: TaskStore, asked: ExchangeRequest, claim: Claim, came_at: float
    ) -> None:
        self.tasks: List[Task] = []
        self._came_at = came_at
        # How long after the request came each task was claimed.
        self._claimed_after: Dict[int, float] = {}
        self._store = store
        self._idle = asked.idle
        self._max_prefetched = asked.max_prefetched
        self._claim = claim

    def claim_all(self) -> None:
        """Claim what can be had without waiting."""
        try:
            while self._idle and self._has_room() and self._take(self._claim):
                self._idle -= 1
            while self._max_prefetched and self._has_room() and self._take(self._prefetching()):
                pass
        except TaskStoreError:
            # What has been claimed must be answered.
            if not self.tasks:
                raise

    def wait(self, seconds: float) -> None:
        """Wait for a task, or until a lease is lost that the worker has."""
        if self._idle:
            # A task that can begin at once does not wait for those that the next exchange brings.
            self._max_prefetched = 0
            self._idle -= self._take(self._claim, seconds)
        elif self._max_prefetched:
            self._take(self._prefetching(), seconds)
        elif self._claim.watched:
            self._take(self._claim._replace(max_prefetched=WATCHES), seconds)
        if self.tasks:
            self.claim_all()

    def fields(self) -> List[Dict[str, Any]]:
        return [self._fields_of(task) for task in self.tasks]

    def _fields_of(self, task: Task) -> Dict[str, Any]:
        fields = claimed_fields(task)
        if task.relay:
            fields["body_bytes"] = len(task.request)
        if task.is_prefetched:
            # Its attempt is counted when it begins.
            # The worker counts from when it sent the request, which may have been held meanwhile.
            seconds = (PREFETCH_SECONDS - GIVE_BACK_SECONDS
                       + self._claimed_after[task.task_id])
            fields.update(attempt=task.attempt + 1, begin_within=round(seconds, 1))
        return fields

    def _take(self, claim: Claim, wait_seconds: float = 0.0) -> bool:
        task = self._store.claim(claim, wait_seconds)
        if task is not None:
            self.tasks.append(task)
            self._claimed_after[task.task_id] = time.monotonic() - self._came_at
        return task is not None

    def _prefetching(self) -> Claim:
        return self._claim._replace(max_prefetched=self._max_prefetched)

    def _has_room(self) -> bool:
        return sum(len(task.request) for task in self.tasks) < MAX_TASKS_BYTES
