"""What to do about what became of the outcomes in an exchange. It sends nothing."""
from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence, Tuple

from transport.sessions import to_json
from worker.protocol.errors import AnswerRefused
from worker.protocol.exchange import Outcome, Verdict
from worker.runs.delivery import log_refusal, substitute
from worker.runs.outcomes import refused

Json = Dict[str, Any]

# Of an outcome that was not delivered, these statuses say nothing about it.
TEMPORARY = (0, 401, 403, 408, 429)


def judge(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]
          ) -> Tuple[Tuple[Outcome, ...], str]:
    """Return the outcomes to deliver once more, in this form or another, and what the server
    answered if it can't take outcomes now."""
    again: List[Outcome] = []
    failure = ""
    for outcome, verdict in zip(outcomes, verdicts):
        if verdict.status in TEMPORARY or verdict.status >= 500:
            again.append(outcome)
            reason = verdict.reason or "It gave no reason."
            failure = failure or f"answered {verdict.status}: {reason}"
        elif verdict.status != 200:
            again += _after_refusal(outcome, verdict)
    return tuple(again), failure


def _after_refusal(outcome: Outcome, verdict: Verdict) -> List[Outcome]:
    refusal = verdict.reason or f"HTTP status {verdict.status}"
    is_lost = verdict.status in (404, 409)
    body = json.loads(outcome.data)
    # A task that is given back, and is another worker's already, is where it should be.
    if not (is_lost and body.get("release")):
        log_refusal(outcome.lease.task_id, refusal)
    if is_lost:
        return []
    if "answer" in body:
        again: Optional[Json] = {"task_id": body["task_id"], "lease_id": body["lease_id"],
                                 **refused(AnswerRefused(refusal))}
    else:
        again = substitute(body, refusal)
    return [] if again is None else [Outcome(outcome.lease, to_json(again))]
