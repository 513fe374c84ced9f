"""SqliteStore: relayed tasks after a restart."""
from __future__ import annotations

import sys

import pytest

from taskstore import ANSWER, HEAD, ModelNotFound, NoWorker, Outcome, Piece, Submission
from taskstore.task import task_bytes
from tests.support.relayed import EVERY_BYTE, extended_claim, relayed, submit_relayed
from tests.support.stores import REQUEST, claim


def answer(store, task_id):
    """Complete a relayed task with every byte that there is."""
    task = extended_claim(store)
    store.append(task_id, task.lease_id, 0, [Piece(HEAD, "200 text/plain"),
                                             Piece(ANSWER, EVERY_BYTE)])
    return store.finish(task_id, Outcome(result=""), task.lease_id)


def test_an_answer_of_every_byte_survives_a_restart(reopen):
    store = reopen()
    submit_relayed(store)
    done = answer(store, 1)
    assert done.result == EVERY_BYTE
    assert reopen().get(1).task == done


@pytest.mark.parametrize("is_running", [False, True])
def test_a_task_whose_client_waited_is_cancelled_by_a_restart(reopen, is_running):
    store = reopen()
    submit_relayed(store, server=store.server_id, key="k")
    if is_running:
        extended_claim(store)
    store = reopen()
    task = store.get(1).task
    assert (task.state, task.error) == ("cancelled", "Its client hung up.")
    assert store.status()[:3] == (0, 0, 1)
    assert extended_claim(store) is None
    assert submit_relayed(store, server=store.server_id, key="k").task_id == 2
    assert reopen().get(1).task == task


def test_a_task_that_is_wanted_in_any_case_survives_a_restart(reopen):
    task = reopen().submit(relayed(key="k", is_background=True))
    store = reopen()
    assert repr(store.get(1).task) == repr(task)
    assert store.submit(relayed(key="k", is_background=True)) == task
    assert claim(store) is None
    assert extended_claim(store).task_id == 1


def test_after_a_restart_a_key_still_leads_to_the_task_that_took_it_away(reopen):
    store = reopen()
    submit_relayed(store, key="k")
    answer(store, 1)
    submit_relayed(store, key="k", may_join=False)
    store = reopen()
    assert submit_relayed(store, key="k").task_id == 2
    store.cancel(1)
    assert submit_relayed(store, key="k").task_id == 2


def test_writing_a_text_does_not_let_it_grow(reopen, clock):
    store = reopen(result_ttl_seconds=60.0)
    store.submit(Submission("llama3", REQUEST))
    result = EVERY_BYTE * 1000
    before = sys.getsizeof(result)
    store.complete(1, result)
    finished = store._state.table.finished
    assert sys.getsizeof(store.get(1).task.result) == before
    assert finished.size_bytes == task_bytes(store.get(1).task)
    clock.advance(60)
    store.status()
    assert finished.size_bytes == 0


def test_after_a_restart_a_busy_worker_may_have_any_model_until_it_claims(reopen):
    store = reopen()
    store.submit(Submission("llama3", REQUEST))
    busy = extended_claim(store)
    store = reopen()
    submit_relayed(store, needs_worker=True)
    store.finish(busy.task_id, Outcome(result="done"), busy.lease_id)
    assert extended_claim(store).task_id == 2
    with pytest.raises(ModelNotFound):
        submit_relayed(store, needs_worker=True, model="mistral")


def test_after_a_restart_without_a_busy_worker_none_is_connected(reopen):
    reopen()
    with pytest.raises(NoWorker):
        submit_relayed(reopen(), needs_worker=True)
