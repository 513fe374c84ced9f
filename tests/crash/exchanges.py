"""What the ledger is told of an exchange: what a worker says in it, and what it is answered."""
from __future__ import annotations

from typing import Any, Dict

from tests.crash.ledger import Ledger, View

Json = Dict[str, Any]


def record_request(ledger: Ledger, worker: str, request: Json, asked_at: float) -> None:
    """Record an exchange that is about to be sent."""
    if request.get("only_these"):
        ledger.name_all()
    ledger.ask(request["idle"])
    for lease in request["running"]:
        ledger.use(lease["lease_id"], asked_at)
    for outcome in request.get("outcomes", ()):
        ledger.end_lease(outcome["task_id"], outcome["lease_id"], asked_at,
                         is_release=bool(outcome.get("release")))


def record_answer(ledger: Ledger, worker: str, request: Json, view: View) -> None:
    """Record the answer to an exchange."""
    if view.status != 200:
        if view.status != 503:
            ledger.report("error", f"an exchange got {view.status} {view.body}")
        return
    for outcome, verdict in zip(request.get("outcomes", ()), view.body["outcomes"]):
        _record_verdict(ledger, outcome, verdict, view)
    _record_leases(ledger, request, view)
    for task in view.body["tasks"]:
        if "begin_within" in task:
            ledger.prefetch(worker, task, view.asked_at, view.answered_at)
        else:
            ledger.claim(task, view.asked_at, view.answered_at, worker)
    ledger.answer(request["idle"])


def _record_verdict(ledger: Ledger, outcome: Json, verdict: Json, view: View) -> None:
    task_id, lease_id = outcome["task_id"], outcome["lease_id"]
    if verdict["status"] == 200:
        ledger.confirm(task_id, lease_id, view)
        if "result" in outcome:
            ledger.accept(task_id, outcome["result"], view)
    elif verdict["status"] != 503:
        ledger.refuse(task_id, lease_id, view._replace(status=verdict["status"], body=verdict))


def _record_leases(ledger: Ledger, request: Json, view: View) -> None:
    for key in ("running", "prefetched"):
        for lease in request[key]:
            task_id, lease_id = lease["task_id"], lease["lease_id"]
            if task_id in view.body["lost"]:
                ledger.lose(task_id, lease_id, view)
            elif key == "running":
                ledger.confirm(task_id, lease_id, view)
            else:
                ledger.check_lease(task_id, lease_id, view)
