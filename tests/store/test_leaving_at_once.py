"""MemoryStore and SqliteStore: a worker that leaves before the thread of its claim has woken up.

The lock is held meanwhile, so that this happens every time.
"""
from __future__ import annotations

import pytest

from taskstore import Claim, Limits, Submission
from tests.support.stores import FACTORIES, LONG_WAIT_SECONDS, REQUEST, claim, peek


@pytest.fixture(params=["memory", "sqlite"])
def local_store(request, running_clock, tmp_path):
    store = FACTORIES[request.param](Limits(), running_clock, tmp_path)
    yield store
    store.close()


def test_a_task_that_its_worker_has_not_been_answered_is_released(
    local_store, running_clock, parked
):
    call = parked(lambda: claim(local_store, instance="one", wait_seconds=LONG_WAIT_SECONDS))
    with local_store._lock:
        local_store._state.submit(Submission("llama3", REQUEST), running_clock())
        assert local_store._state.table[1].state == "running"
        leaving = Claim("gpu-1", None, 0.0, instance="one")
        local_store._state.leave(leaving, running_clock())
    assert call.result() is None
    task = peek(local_store, 1)
    assert (task.state, task.attempt) == ("queued", 0)
    assert [worker.connected for worker in local_store.status().workers] == [False]
