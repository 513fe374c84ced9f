"""The moves of a task as pure functions: rules that no store test covers, and random histories."""
from __future__ import annotations

import random

import pytest

from taskstore import moves, tasks
from taskstore.errors import LeaseLost
from taskstore.names import WorkerId, model_key
from taskstore.submissions import Outcome
from taskstore.task import FINAL, Task, task_bytes

NEW = Task(7, "llama3", b'{"prompt":"hi"}', submitted_at=100.0)
GPU_1 = WorkerId("", "gpu-1", "")
MAX_ATTEMPTS = 3


def running(lease_id="lease", attempt=1):
    task = tasks.claim(NEW, 110.0, GPU_1, lease_id, 30.0)
    return task._replace(attempt=attempt)


def fail(task, now=120.0, lease_id="lease", error="It broke.", retry=True):
    outcome = Outcome(error=error, retry=retry)
    return tasks.fail(task, now, lease_id, outcome, MAX_ATTEMPTS)


@pytest.mark.parametrize(("name", "key"), [
    ("llama3", "llama3:latest"),
    ("llama3:latest", "llama3:latest"),
    ("llama3:70b", "llama3:70b"),
    ("user/llama3", "user/llama3:latest"),
    ("hub.example:8080/user/llama3", "hub.example:8080/user/llama3:latest"),
    ("hub.example:8080/user/llama3:q4", "hub.example:8080/user/llama3:q4"),
    ("Llama3", "llama3:latest"),
    ("LLAMA3:LATEST", "llama3:latest"),
    (" llama3 ", "llama3:latest"),
    ("library/llama3", "llama3:latest"),
    ("Library/Llama3:8B", "llama3:8b"),
    ("registry.ollama.ai/library/llama3:latest", "llama3:latest"),
    ("https://registry.ollama.ai/library/llama3", "llama3:latest"),
    ("Registry.Ollama.AI/user/llama3", "user/llama3:latest"),
    ("registry.ollama.ai/llama3", "registry.ollama.ai/llama3:latest"),
    ("hub.example/library/llama3", "hub.example/library/llama3:latest"),
    ("hf.co/x/y-GGUF:Q4_K_M", "hf.co/x/y-gguf:q4_k_m"),
    ("library", "library:latest"),
    ("a/library/b/c", "a/library/b/c:latest"),
])
def test_all_names_of_a_model_have_one_key(name, key):
    assert model_key(name) == key


def test_a_lease_ends_on_time_and_not_before():
    task = running()
    assert tasks.age(task, 139.9, MAX_ATTEMPTS) is task
    assert tasks.age(task, 140.0, MAX_ATTEMPTS).state == "queued"


def test_only_a_running_task_can_lose_its_lease():
    for task in (NEW, fail(running()), tasks.complete(running(), 120.0, "lease", Outcome("4"))):
        assert tasks.age(task, 1e9, MAX_ATTEMPTS) is task


def test_the_end_of_the_last_lease_fails_the_task_and_says_why():
    task = tasks.age(running(attempt=3), 140.0, MAX_ATTEMPTS)
    assert (task.state, task.finished_at, task.attempt) == ("failed", 140.0, 3)
    assert task.error == "Lost contact with worker gpu-1 (attempt 3 of 3)."


def test_the_error_of_the_last_attempt_is_still_a_sentence():
    assert fail(running(attempt=3)).error == "It broke (attempt 3 of 3)."


@pytest.mark.parametrize(("attempt", "pause"), [
    (1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (7, 60), (100, 60), (10_000, 60)])
def test_pauses_double_with_each_attempt_up_to_a_minute(attempt, pause):
    task = tasks.fail(
        running(attempt=attempt), 120.0, "lease", Outcome(error="No.", retry=True), 100_000)
    assert task.not_before == 120.0 + pause


@pytest.mark.parametrize(("releases", "pause"), [
    (0, 2), (1, 4), (2, 8), (4, 32), (5, 60), (6, 60), (10_000, 60)])
def test_pauses_double_with_each_release_for_a_reason_up_to_a_minute(releases, pause):
    task = tasks.release(
        running()._replace(releases=releases), 120.0, "lease", "Busy.")
    assert (task.not_before, task.releases) == (120.0 + pause, releases + 1)


def test_every_move_refuses_a_lease_id_other_than_the_last():
    completed = tasks.complete(running("other"), 120.0, "other", Outcome("4"))
    for task in (NEW, running("other"), completed):
        for move in (
            lambda task: tasks.renew(task, 120.0, "lease"),
            lambda task: tasks.complete(task, 120.0, "lease", Outcome("4")),
            lambda task: tasks.release(task, 120.0, "lease"),
            fail,
        ):
            with pytest.raises(LeaseLost):
                move(task)


def test_the_message_of_a_lost_lease_is_a_sentence():
    with pytest.raises(LeaseLost, match=r"^[A-Z].*\.$"):
        tasks.release(running("other"), 120.0, "lease")


def test_the_size_of_a_task_includes_all_its_texts():
    empty = task_bytes(NEW)
    assert task_bytes(NEW._replace(request=NEW.request + b"x" * 5000)) == empty + 5000
    assert task_bytes(NEW._replace(result="x" * 5000)) >= empty + 5000
    assert task_bytes(NEW._replace(error="x" * 5000)) >= empty + 5000
    assert task_bytes(NEW._replace(result="\U0001f600" * 5000)) >= empty + 20_000


def random_move(dice, task, now):
    """Make any move that a store might make, allowed or not."""
    lease_id = dice.choice(["", task.lease_id, task.lease_id, "an-old-one"])
    kind = dice.choice(["claim", "prefetch", "renew", "release", "retry", "expire"] * 3
                       + ["complete", "fail"])
    if kind in ("claim", "prefetch"):
        is_free = tasks.is_ready(task, now) or (kind == "claim" and tasks.is_reserved(task, now))
        if not is_free:
            return kind, task
        move = tasks.claim if kind == "claim" else tasks.prefetch
        return kind, move(task, now, GPU_1, str(dice.random()), dice.choice([1.0, 30.0]))
    if kind == "expire":
        return kind, tasks.age(task, now, MAX_ATTEMPTS)
    if kind == "renew":
        return kind, tasks.renew(task, now, lease_id or task.lease_id)
    if kind == "complete":
        return kind, tasks.complete(task, now, lease_id, Outcome(dice.choice(["4", "5"])))
    if kind == "release":
        return kind, tasks.release(task, now, lease_id, dice.choice(["", "Busy."]))
    return kind, fail(task, now, lease_id, f"Reason {now}.", kind == "retry")


def history(seed):
    """Yield (task before, move, task after) for a random history without its refused moves."""
    dice = random.Random(seed)
    task, now = NEW, 100.0
    for _ in range(dice.randrange(1, 60)):
        now += dice.choice([0.0, 0.5, 5.0, 70.0])
        try:
            kind, after = random_move(dice, task, now)
        except LeaseLost:
            continue
        yield task, kind, after
        task = after


SEEDS = range(500)


def test_random_histories_reach_every_state():
    lasts = [list(history(seed))[-1:] for seed in SEEDS]
    ends = {after.state for last in lasts for _, _, after in last}
    assert ends == {"queued", "running", "completed", "failed"}


def test_a_final_task_never_changes_in_any_history():
    for seed in SEEDS:
        for before, kind, after in history(seed):
            assert before.state not in FINAL or after is before, (seed, kind)


def test_attempts_stay_within_bounds_in_any_history():
    for seed in SEEDS:
        for before, kind, after in history(seed):
            assert 0 <= after.attempt <= MAX_ATTEMPTS, (seed, kind)
            begins = kind == "claim" or (before.is_prefetched and kind != "prefetch")
            assert after.attempt <= before.attempt + begins, (seed, kind)
            is_undone = kind == "release" and not before.is_prefetched
            assert after.attempt >= before.attempt - is_undone, (seed, kind)
            assert after.state != "queued" or after.attempt < MAX_ATTEMPTS, (seed, kind)
            assert after.state != "running" or after.attempt > 0, (seed, kind)


def test_id_model_and_request_never_change_in_any_history():
    for seed in SEEDS:
        for _, kind, after in history(seed):
            assert after[:2] == NEW[:2], (seed, kind)
            assert after.submitted_at == NEW.submitted_at, (seed, kind)
            assert after.request == (b"" if after.state in FINAL else NEW.request), (seed, kind)


def test_only_a_claim_or_a_prefetch_changes_the_lease_id_in_any_history():
    for seed in SEEDS:
        for before, kind, after in history(seed):
            is_claim = kind in ("claim", "prefetch") and after is not before
            assert (after.lease_id != before.lease_id) == is_claim, (seed, kind)


def test_result_and_error_agree_with_the_state_in_any_history():
    for seed in SEEDS:
        for _, kind, after in history(seed):
            assert bool(after.result) == (after.state == "completed"), (seed, kind)
            assert after.error or after.state != "failed", (seed, kind)
            assert not after.error or after.state != "completed", (seed, kind)
            assert bool(after.finished_at) == (after.state in FINAL), (seed, kind)
            assert after.state == "queued" or not after.is_prefetched, (seed, kind)


def prefetched(task=NEW, lease_id="lease", now=110.0):
    return tasks.prefetch(task, now, GPU_1, lease_id, 30.0)


def test_a_prefetched_task_stays_queued_and_has_used_no_attempt():
    task = prefetched(NEW._replace(error="It broke.", releases=2, not_before=105.0, text_epoch=4))
    assert (task.state, task.attempt, task.text_epoch, task.started_at) == ("queued", 0, 4, 0.0)
    assert (task.error, task.releases, task.not_before) == ("It broke.", 2, 105.0)
    assert (task.worker, task.lease_id, task.expires_at) == ("gpu-1", "lease", 120.0)


def test_a_prefetched_task_is_reserved_for_ten_seconds_and_then_ready():
    task = prefetched()
    assert tasks.due_at(task, 110.0) == 120.0
    assert tasks.is_reserved(task, 119.9) and not tasks.is_ready(task, 119.9)
    assert tasks.is_ready(task, 120.0) and not tasks.is_reserved(task, 120.0)
    assert tasks.age(task, 120.0, MAX_ATTEMPTS) is task


@pytest.mark.parametrize("now", [115.0, 500.0])
def test_the_first_renewal_begins_a_prefetched_task_also_after_its_reservation(now):
    task = tasks.renew(prefetched(), now, "lease")
    assert (task.state, task.attempt, task.text_epoch, task.is_prefetched) == (
        "running", 1, 1, False)
    assert (task.started_at, task.expires_at) == (now, now + 30.0)
    again = tasks.renew(task, now + 5, "lease")
    assert (again.attempt, again.text_epoch, again.started_at) == (1, 1, now)


def test_a_prefetched_task_that_another_worker_has_claimed_or_prefetched_is_lost():
    other = WorkerId("", "gpu-2", "")
    for move in (tasks.claim, tasks.prefetch):
        task = move(prefetched(), 112.0, other, "theirs", 30.0)
        assert tasks.is_lost(task, "lease") and not tasks.is_lost(task, "theirs")
        for late in (lambda task=task: tasks.renew(task, 113.0, "lease"),
                     lambda task=task: tasks.complete(task, 113.0, "lease", Outcome("4")),
                     lambda task=task: tasks.release(task, 113.0, "lease")):
            with pytest.raises(LeaseLost):
                late()
        assert task.is_prefetched == (move is tasks.prefetch)


def test_a_prefetched_task_is_not_lost_when_its_reservation_ends():
    assert not tasks.is_lost(prefetched(), "lease")
    assert tasks.is_lost(tasks.cancel(prefetched(), 112.0), "lease")
    assert tasks.is_lost(NEW, "")


def test_the_outcome_of_a_prefetched_task_counts_as_an_attempt():
    completed = tasks.complete(prefetched(), 112.0, "lease", Outcome("4"))
    assert (completed.state, completed.attempt, completed.result) == ("completed", 1, "4")
    assert completed.started_at == completed.finished_at == 112.0
    failed = fail(prefetched(), 112.0, retry=False)
    assert (failed.state, failed.attempt, failed.is_prefetched) == ("failed", 1, False)
    again = fail(prefetched(), 112.0)
    assert (again.state, again.attempt, again.not_before) == ("queued", 1, 114.0)
    assert not again.is_prefetched and not tasks.is_reserved(again, 112.0)
    last = fail(prefetched(NEW._replace(attempt=MAX_ATTEMPTS - 1)), 112.0)
    assert (last.state, last.attempt) == ("failed", MAX_ATTEMPTS)


def test_a_prefetched_task_that_is_released_is_queued_as_before():
    released = tasks.release(prefetched(NEW._replace(attempt=1, text_epoch=1)), 112.0, "lease")
    assert (released.state, released.attempt, released.text_epoch) == ("queued", 1, 1)
    assert tasks.is_ready(released, 112.0) and tasks.is_lost(released, "lease")
    assert tasks.release(released, 113.0, "lease") is released
    with_reason = tasks.release(prefetched(), 112.0, "lease", "Busy.")
    assert (with_reason.error, with_reason.releases, with_reason.not_before) == (
        "Busy.", 1, 114.0)


def test_an_outcome_without_a_lease_id_is_not_that_of_the_worker_that_has_prefetched_the_task():
    task = prefetched()
    completed = tasks.complete(task, 112.0, "", Outcome("4"))
    assert (completed.state, completed.attempt, completed.is_prefetched) == ("completed", 0, False)
    assert fail(task, 112.0, lease_id="", retry=False).state == "failed"
    assert fail(task, 112.0, lease_id="") is task
    assert tasks.release(task, 112.0, "") is task
    with pytest.raises(LeaseLost):
        tasks.renew(task, 112.0, "")


def test_a_prefetched_task_that_has_not_begun_by_its_start_by_fails():
    task = prefetched(NEW._replace(start_by=115.0))
    assert tasks.due_at(task, 110.0) == 115.0
    assert tasks.age(task, 115.0, MAX_ATTEMPTS).state == "failed"


def test_after_a_restart_a_prefetched_task_is_reserved_for_as_long_as_a_worker_may_take_to_return():
    task = tasks.restart_lease(prefetched()._replace(lease_seconds=600.0), 200.0)
    assert task.expires_at == 200.0 + tasks.MIN_RESTARTED_LEASE_SECONDS
    assert task.is_prefetched


def test_prefetching_and_giving_back_are_no_moves_and_beginning_is_one():
    begun = tasks.renew(prefetched(), 112.0, "lease")
    given_back = tasks.release(prefetched(), 112.0, "lease")
    paused = tasks.release(prefetched(), 112.0, "lease", "Busy.")
    assert not moves.is_move(NEW, prefetched())
    assert not moves.is_move(prefetched(), prefetched(lease_id="other"))
    assert not moves.is_move(prefetched(), given_back)
    assert moves.is_move(prefetched(), begun)
    assert moves.is_move(prefetched(), paused)
    assert moves.is_move(prefetched(), fail(prefetched()))


def test_the_outcome_of_a_prefetched_task_is_told_as_two_moves():
    old = prefetched()
    begun = tasks.renew(old, 112.0, "lease")
    for new in (tasks.complete(old, 112.0, "lease", Outcome("4")), fail(old, 112.0)):
        assert moves.steps(old, new) == [(old, begun), (begun, new)]
    cancelled = tasks.cancel(old, 112.0)
    assert moves.steps(old, cancelled) == [(old, cancelled)]
    assert moves.steps(old, begun) == [(old, begun)]
    assert moves.steps(None, old) == [(None, old)]
