"""The contract of every task store: a user's foreground tasks go before background tasks."""
from __future__ import annotations

import itertools
import random

import pytest

from taskstore import KeyReused, Submission
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, claim, claimed


def submit_background(store, count=1, model="llama3", owner=""):
    return [store.submit(Submission(model, REQUEST, owner, is_background=True)).task_id
            for _ in range(count)]


def submit_foreground(store, count=1, model="llama3", owner=""):
    return [store.submit(Submission(model, REQUEST, owner)).task_id for _ in range(count)]


def claim_kind(store, **how):
    """Claim a task and tell its kind: B for background, F for foreground."""
    return "B" if claimed(store, lease_seconds=600.0, **how).is_background else "F"


def claim_kinds(store, count, **how):
    return "".join(claim_kind(store, **how) for _ in range(count))


def test_a_foreground_task_goes_before_background_tasks(store):
    background = submit_background(store, 3)
    foreground = submit_foreground(store, 2)
    assert [claimed(store).task_id for _ in range(5)] == foreground + background


def test_a_task_says_whether_it_is_in_the_background(store):
    submit_background(store)
    submit_foreground(store)
    assert [store.get(n).task.is_background for n in (1, 2)] == [True, False]


def test_one_claim_in_eight_is_for_the_background_while_foreground_tasks_keep_coming(store):
    submit_background(store, 20)
    kinds = ""
    for _ in range(40):
        submit_foreground(store, 2)
        kinds += claim_kind(store)
    assert all(kinds[n : n + 8].count("B") == 1 for n in range(len(kinds) - 7)), kinds


@pytest.mark.parametrize("models", [None, ["llama3"], ["llama3", "mistral", "qwen3"]])
def test_the_background_gets_its_share_whatever_models_the_worker_names(store, models):
    submit_background(store, 2)
    submit_foreground(store, 20)
    assert claim_kinds(store, 16, models=models) == "FFFFFFFB" * 2


def test_the_background_gets_its_share_when_its_tasks_are_for_another_model(store):
    submit_background(store, 2, "mistral")
    submit_foreground(store, 20, "llama3")
    assert claim_kinds(store, 16, models=["llama3", "mistral"]) == "FFFFFFFB" * 2


def test_a_worker_without_the_models_of_the_background_does_not_change_its_share(store):
    submit_background(store, 2, "mistral")
    submit_foreground(store, 40, "llama3")
    able, unable = {"models": ["llama3", "mistral"]}, {"models": ["llama3"]}
    assert claim_kinds(store, 5, **able) == "FFFFF"
    assert claim_kinds(store, 9, **unable) == "F" * 9
    assert claim_kinds(store, 3, **able) == "FFB"
    assert claim_kinds(store, 7, **able) == "F" * 7
    assert claim_kinds(store, 2, **unable) == "FF"
    assert claim_kinds(store, 1, **able) == "B"


def test_claims_before_a_background_task_waits_do_not_count(store):
    submit_foreground(store, 30)
    assert claim_kinds(store, 7) == "F" * 7
    submit_background(store)
    assert claim_kinds(store, 8) == "FFFFFFFB"


def test_a_background_claim_of_any_worker_starts_the_count_anew(store):
    submit_background(store, 4, "mistral")
    submit_foreground(store, 40)
    able = {"models": ["llama3", "mistral"]}
    assert claim_kinds(store, 6, **able) == "F" * 6
    assert claim_kinds(store, 1, models=["mistral"]) == "B"
    assert claim_kinds(store, 8, **able) == "FFFFFFFB"


def test_the_background_tasks_of_one_user_do_not_wait_for_the_foreground_of_another(store):
    submit_background(store, 2, owner="alice")
    submit_foreground(store, 4, owner="bob")
    owners = [claimed(store).owner for _ in range(4)]
    assert owners == ["alice", "bob", "alice", "bob"]


def test_each_user_has_an_own_count(store):
    for owner in ("alice", "bob"):
        submit_background(store, 2, owner=owner)
        submit_foreground(store, 20, owner=owner)
    assert claim_kinds(store, 16) == "FF" * 7 + "BB"


@pytest.mark.parametrize("is_background", [False, True])
def test_a_task_that_comes_back_has_its_old_place(store, clock, is_background):
    submit = submit_background if is_background else submit_foreground
    ids = submit(store, 2)
    first = claimed(store)
    submit(store)
    submit_foreground(store)
    store.release(first.task_id, first.lease_id)
    claimed(store, lease_seconds=10)
    clock.advance(10)
    order = [claimed(store).task_id for _ in range(4)]
    assert order == ([4, *ids, 3] if is_background else [*ids, 3, 4])


def test_a_queue_position_counts_foreground_tasks_first(store):
    submit_background(store, 2)
    submit_foreground(store, 3)
    assert [store.get(n).queue_position for n in range(1, 6)] == [4, 5, 1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_queue_positions_are_the_order_of_claims_while_no_background_task_is_due(store, seed):
    dice = random.Random(seed)
    owner_of = dict(zip(itertools.count(1), dice.choices(["", "alice", "bob"], k=15)))
    for owner in owner_of.values():
        store.submit(Submission("llama3", REQUEST, owner, is_background=dice.random() < 0.5))
    positions = {store.get(n, owner=owner).queue_position: n for n, owner in owner_of.items()}
    order = [claimed(store, lease_seconds=600.0).task_id for _ in owner_of]
    assert order == [positions[n] for n in range(1, len(owner_of) + 1)]


def test_a_waiting_claim_gets_a_background_task_at_once(live_store, parked):
    call = parked(lambda: claim(live_store, wait_seconds=LONG_WAIT_SECONDS))
    submit_background(live_store)
    assert call.result().task_id == 1


def test_a_background_task_that_nobody_has_fails_before_younger_foreground_tasks(store, clock):
    claim(store, "other", models=["mistral"], lease_seconds=600.0)
    submit_background(store, model="nobody-has-it")
    for _ in range(5):
        clock.advance(10)
        claim(store, "other", models=["mistral"])
        store.status()
    submit_foreground(store, model="nobody-has-it")
    clock.advance(10)
    assert [store.get(n).task.state for n in (1, 2)] == ["failed", "queued"]


def test_a_repeated_submission_with_another_kind_is_no_repetition(store):
    submission = Submission("llama3", REQUEST, key="k")
    store.submit(submission)
    with pytest.raises(KeyReused):
        store.submit(submission._replace(is_background=True))


def test_the_count_starts_anew_when_a_user_has_no_ready_tasks_any_more(store):
    submit_background(store, 1)
    submit_foreground(store, 6)
    assert claim_kinds(store, 6) == "F" * 6
    store.cancel(1)
    submit_background(store, 1)
    submit_foreground(store, 8)
    assert claim_kinds(store, 8) == "FFFFFFFB"
