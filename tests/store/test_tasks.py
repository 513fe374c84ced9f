"""The moves of a task as pure functions: rules that no store test covers, and random histories."""
from __future__ import annotations

import random

import pytest

from taskstore import tasks
from taskstore.errors import LeaseLost
from taskstore.tasks import FINAL, Outcome, Task, WorkerId

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
    assert tasks.model_key(name) == key


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
    empty = tasks.size_bytes(NEW)
    assert tasks.size_bytes(NEW._replace(request=NEW.request + b"x" * 5000)) == empty + 5000
    assert tasks.size_bytes(NEW._replace(result="x" * 5000)) >= empty + 5000
    assert tasks.size_bytes(NEW._replace(error="x" * 5000)) >= empty + 5000
    assert tasks.size_bytes(NEW._replace(result="\U0001f600" * 5000)) >= empty + 20_000


def random_move(dice, task, now):
    """Make any move that a store might make, allowed or not."""
    lease_id = dice.choice(["", task.lease_id, task.lease_id, "an-old-one"])
    kind = dice.choice(["claim"] * 5 + ["renew", "release", "retry", "expire"] * 3
                       + ["complete", "fail"])
    if kind == "claim":
        if task.state != "queued" or task.not_before > now:
            return kind, task
        return kind, tasks.claim(task, now, GPU_1, str(dice.random()), dice.choice([1.0, 30.0]))
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
            assert after.attempt <= before.attempt + (kind == "claim"), (seed, kind)
            assert after.attempt >= before.attempt - (kind == "release"), (seed, kind)
            assert after.state != "queued" or after.attempt < MAX_ATTEMPTS, (seed, kind)
            assert after.state != "running" or after.attempt > 0, (seed, kind)


def test_id_model_and_request_never_change_in_any_history():
    for seed in SEEDS:
        for _, kind, after in history(seed):
            assert after[:2] == NEW[:2], (seed, kind)
            assert after.submitted_at == NEW.submitted_at, (seed, kind)
            assert after.request == (b"" if after.state in FINAL else NEW.request), (seed, kind)


def test_only_a_claim_changes_the_lease_id_in_any_history():
    for seed in SEEDS:
        for before, kind, after in history(seed):
            is_claim = kind == "claim" and after is not before
            assert (after.lease_id != before.lease_id) == is_claim, (seed, kind)


def test_result_and_error_agree_with_the_state_in_any_history():
    for seed in SEEDS:
        for _, kind, after in history(seed):
            assert bool(after.result) == (after.state == "completed"), (seed, kind)
            assert after.error or after.state != "failed", (seed, kind)
            assert not after.error or after.state != "completed", (seed, kind)
            assert bool(after.finished_at) == (after.state in FINAL), (seed, kind)
