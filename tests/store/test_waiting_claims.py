"""The waiting claims of the store in memory, while their threads have not woken up yet."""
from __future__ import annotations

import threading

import pytest

from taskstore import Claim, LeaseId, Submission, Task
from taskstore.memory.waiters import Waiters
from taskstore.memory.waiting_claims import WaitingClaims

CLAIM = Claim("gpu-1", None, 30.0, replaces=True, watched=(LeaseId(7, "lease"),))
TASK = Task.queued(7, Submission("llama3", b"{}"), 100.0)


@pytest.fixture
def claims():
    lock = threading.Lock()
    with lock:
        yield WaitingClaims(Waiters(lock, lambda: 100.0, lambda: None))


def end_all(claims):
    claims.dismiss(CLAIM.worker_id)


def lose_lease(claims):
    claims.check_watched(TASK)


@pytest.mark.parametrize("event", [end_all, lose_lease])
@pytest.mark.parametrize("most", [0, 1])
def test_a_claim_that_has_ended_early_gets_no_task(claims, event, most):
    waiting = claims.add(CLAIM._replace(max_prefetched=most))
    event(claims)
    assert waiting.is_over
    assert claims.pop_for(TASK) is None
    assert claims.pop_prefetch("llama3:latest", lambda claim: True) is None


@pytest.mark.parametrize("event", [end_all, lose_lease])
def test_a_claim_that_ends_early_keeps_the_task_that_it_has(claims, event):
    waiting = claims.add(CLAIM)
    assert claims.pop_for(TASK) is waiting
    waiting.deliver(TASK)
    event(claims)
    assert (waiting.task, waiting.has_ended) == (TASK, False)
