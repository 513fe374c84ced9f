"""The contract of every task store: relayed tasks, whose answer is bytes, and who may run them."""
from __future__ import annotations

import pytest

from taskstore import (
    ANSWER,
    HEAD,
    Cursor,
    ModelNotFound,
    NoWorker,
    Outcome,
    Piece,
    StoreFull,
    Submission,
    TextTooLong,
)
from taskstore.limits import MAX_TEXT_CHARACTERS
from tests.support.relayed import EVERY_BYTE, extended_claim, relayed, submit_relayed
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, claim, claimed, submit
from tests.support.texting import read

HEAD_TEXT = "200 application/json"
START = Piece(HEAD, HEAD_TEXT)


@pytest.fixture
def running(store):
    """A relayed task with a lease."""
    submit_relayed(store)
    return extended_claim(store)


def send(store, task, offset, *pieces):
    return store.append(task.task_id, task.lease_id, offset, list(pieces))[1]


# The answer


def test_offsets_count_the_head_and_the_bytes(store, running):
    assert send(store, running, 0, START, Piece(ANSWER, "\xff\x00a")) == len(HEAD_TEXT) + 3
    assert send(store, running, len(HEAD_TEXT) + 2, Piece(ANSWER, "ab")) == len(HEAD_TEXT) + 4
    assert read(store).pieces == [START, Piece(ANSWER, "\xff\x00ab")]
    cursor = Cursor(running.text_epoch, len(HEAD_TEXT) + 1, "running")
    update = read(store, cursor)
    assert (update.pieces, update.cursor.offset) == ([Piece(ANSWER, "\x00ab")], 24)


def test_the_text_becomes_the_result(store, running):
    send(store, running, 0, START, Piece(ANSWER, EVERY_BYTE))
    send(store, running, len(HEAD_TEXT) + 256, Piece(ANSWER, EVERY_BYTE))
    done = store.finish(1, Outcome(result=""), running.lease_id)
    assert (done.state, done.head, done.result) == ("completed", HEAD_TEXT, 2 * EVERY_BYTE)
    assert store.get(1).task == done


def test_an_answer_without_bytes_is_completed(store, running):
    send(store, running, 0, START)
    done = store.finish(1, Outcome(result=""), running.lease_id)
    assert (done.state, done.head, done.result) == ("completed", HEAD_TEXT, "")


def test_a_relayed_task_without_any_text_has_no_answer_of_its_outcome(store, running):
    done = store.finish(1, Outcome(result="not its answer"), running.lease_id)
    assert (done.state, done.head, done.result) == ("completed", "", "")


def test_a_reader_goes_on_where_it_was_when_the_task_completes(store, running):
    send(store, running, 0, START, Piece(ANSWER, "ab"))
    cursor = read(store).cursor
    send(store, running, len(HEAD_TEXT) + 2, Piece(ANSWER, "c\xe9"))
    store.finish(1, Outcome(result=""), running.lease_id)
    update = read(store, cursor)
    assert (update.starts_over, update.pieces) == (False, [Piece(ANSWER, "c\xe9")])
    assert read(store).pieces == [START, Piece(ANSWER, "abc\xe9")]


def test_a_second_completion_changes_nothing(store, running):
    send(store, running, 0, START, Piece(ANSWER, "ab"))
    done = store.finish(1, Outcome(result=""), running.lease_id)
    assert store.finish(1, Outcome(result=""), running.lease_id) == done


def test_a_failed_relayed_task_keeps_its_head_and_the_bytes_so_far(store, running):
    send(store, running, 0, START, Piece(ANSWER, "a\xff"))
    failed = store.fail(1, "Lost.", lease_id=running.lease_id)
    assert (failed.head, failed.result) == (HEAD_TEXT, "a\xff")


def test_another_attempt_begins_with_another_head(store, running):
    send(store, running, 0, START, Piece(ANSWER, "ab"))
    store.release(1, running.lease_id)
    again = extended_claim(store, "gpu-2")
    assert send(store, again, 0, Piece(HEAD, "404 text/plain"), Piece(ANSWER, "x")) == 15
    done = store.finish(1, Outcome(result=""), again.lease_id)
    assert (done.head, done.result) == ("404 text/plain", "x")


def test_an_answer_may_take_all_the_room_that_there_is(open_store, clock):
    store = open_store(clock, max_store_bytes=1_000_000)
    submit_relayed(store)
    task = extended_claim(store)
    send(store, task, 0, START, Piece(ANSWER, "\xff" * 900_000))
    with pytest.raises(TextTooLong):
        send(store, task, 900_020, Piece(ANSWER, "\xff" * 100_000))
    done = store.finish(1, Outcome(result=""), task.lease_id)
    assert len(done.result) == 900_000
    with pytest.raises(StoreFull):
        store.submit(Submission("llama3", b"x" * 1_100_000))
    assert submit(store) == 2


def test_the_room_of_a_text_and_its_result_is_given_back(open_store, clock):
    store = open_store(clock, max_store_bytes=1_000_000, result_ttl_seconds=60.0)
    for round in range(3):
        task_id = submit_relayed(store).task_id
        task = extended_claim(store)
        for n in range(9):
            send(store, task, 20 * (n > 0) + n * 100_000, *([START] if not n else []),
                 Piece(ANSWER, "\xff" * 100_000))
        store.finish(task_id, Outcome(result=""), task.lease_id)
        assert store.get(task_id).task.result == "\xff" * 900_000
        clock.advance(60 if round else 0)


@pytest.fixture
def short_texts(monkeypatch):
    """Let a text have 25 characters."""
    monkeypatch.setattr("taskstore.memory.running_texts.MAX_TEXT_CHARACTERS", 25)
    redis = pytest.importorskip("taskstore.redis.store")
    line = "local MAX_TEXT_CHARACTERS = "
    shorter = {name: text.replace(f"{line}{MAX_TEXT_CHARACTERS}", f"{line}25")
               for name, text in redis._SCRIPTS.items()}
    assert shorter != redis._SCRIPTS
    monkeypatch.setattr(redis, "_SCRIPTS", shorter)


@pytest.mark.parametrize("submission", [relayed(), Submission("llama3", REQUEST)])
def test_a_text_has_a_limit_in_characters(short_texts, open_store, clock, submission):
    store = open_store(clock)
    store.submit(submission)
    task = extended_claim(store)
    send(store, task, 0, Piece(ANSWER, "\xe9" * 20))
    assert send(store, task, 18, Piece(ANSWER, "\xe9" * 7)) == 25
    with pytest.raises(TextTooLong):
        send(store, task, 25, Piece(ANSWER, "6"))


# Who may run them


def test_a_worker_that_names_no_models_gets_plain_tasks_only(store):
    submit_relayed(store)
    assert claim(store) is None
    submit(store, "mistral")
    assert claimed(store).task_id == 2
    assert extended_claim(store).task_id == 1


def test_plain_tasks_behind_others_are_found_by_turns(store):
    for owner in ("alice", "bob"):
        store.submit(relayed(owner=owner))
        store.submit(Submission("llama3", REQUEST, owner))
        store.submit(Submission("mistral", REQUEST, owner))
    assert [claimed(store).task_id for _ in range(4)] == [2, 5, 3, 6]
    assert claim(store) is None


def test_a_worker_that_names_models_gets_the_kinds_it_can_run(store):
    submit_relayed(store)
    assert claim(store, models=["llama3"]) is None
    assert extended_claim(store, models=["mistral"]) is None
    submit(store)
    assert [extended_claim(store).task_id for _ in range(2)] == [1, 2]


def test_a_waiting_claim_for_any_model_lets_a_relayed_task_pass(live_store, parked):
    waiting = parked(lambda: claim(live_store, wait_seconds=LONG_WAIT_SECONDS))
    submit_relayed(live_store)
    assert extended_claim(live_store, "gpu-2").task_id == 1
    submit(live_store)
    assert waiting.result().task_id == 2


def test_a_waiting_claim_of_an_extended_worker_gets_a_relayed_task(live_store, parked):
    waiting = parked(lambda: extended_claim(live_store, wait_seconds=LONG_WAIT_SECONDS))
    submit_relayed(live_store)
    assert waiting.result().task_id == 1


def test_only_workers_that_said_so_count_as_having_the_model(store):
    submit_relayed(store)
    claim(store)
    claim(store, "gpu-2", ["llama3"])
    snapshot = store.get(1)
    assert (snapshot.model_available, snapshot.worker_seen_seconds) == (False, None)
    extended_claim(store, "gpu-3", models=["mistral"])
    assert not store.get(1).model_available
    store.submit(relayed("mistral"))
    assert store.get(2).model_available


def test_former_workers_with_any_model_do_not_keep_a_relayed_task(store, clock):
    claim(store, instance="one")
    submit_relayed(store)
    for _ in range(3):
        claim(store, models=["mistral"], instance="one")
        clock.advance(25)
    assert store.get(1).task.state == "failed"


def test_a_relayed_task_that_nobody_can_run_fails_with_names_that_people_know(store, clock):
    submit_relayed(store)
    for _ in range(3):
        extended_claim(store, models=["mistral", "qwen3:8b"])
        clock.advance(25)
    task = store.get(1).task
    assert task.error == ("No worker has the model 'llama3'; the connected workers have "
                          "mistral:latest, qwen3:8b.")


def test_many_models_are_listed_without_those_that_people_do_not_know(store, clock):
    submit_relayed(store)
    names = [f"m{n:02}" for n in range(30)]
    for _ in range(3):
        extended_claim(store, models=names)
        clock.advance(25)
    listed = ", ".join(f"{name}:latest" for name in names[:20])
    assert store.get(1).task.error.endswith(f"have {listed} and others.")


def test_the_status_shows_each_model_once(store):
    extended_claim(store, models=["mistral", "llama3"])
    assert store.status().workers[0].models == ["llama3:latest", "mistral:latest"]


# Submissions that need a worker


def test_a_submission_is_refused_without_a_worker(store):
    with pytest.raises(NoWorker):
        store.submit(relayed(needs_worker=True))
    claim(store)
    claim(store, "gpu-2", ["llama3"])
    with pytest.raises(NoWorker):
        store.submit(relayed(needs_worker=True))
    assert store.status().queued == 0


def test_a_submission_for_a_model_that_no_connected_worker_has_is_refused(store, clock):
    extended_claim(store, models=["mistral"])
    with pytest.raises(ModelNotFound, match="model 'llama3' not found"):
        store.submit(relayed(needs_worker=True))
    extended_claim(store, "gpu-2")
    assert store.submit(relayed(needs_worker=True)).task_id == 1
    clock.advance(100)
    with pytest.raises(NoWorker):
        store.submit(relayed(needs_worker=True))


def test_a_missing_worker_is_told_before_a_full_queue(open_store, clock):
    store = open_store(clock, max_queued_tasks=1)
    submit(store)
    with pytest.raises(NoWorker):
        store.submit(relayed(needs_worker=True))
    extended_claim(store, models=["mistral"])
    with pytest.raises(ModelNotFound):
        store.submit(relayed(needs_worker=True))


def test_a_submission_that_joins_needs_no_worker(store):
    store.submit(relayed(key="k"))
    assert store.submit(relayed(key="k", needs_worker=True)).task_id == 1
