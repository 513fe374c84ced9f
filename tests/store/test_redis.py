"""The store in Redis between processes: who is woken, what one that dies leaves, lost answers.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import random
import secrets
import threading

import pytest

from taskstore import (
    ANSWER,
    CannotOpen,
    Cursor,
    Limits,
    Piece,
    StoreDown,
    Submission,
    TaskNotFound,
    open_store,
)
from tests.support.stores import (
    GUARD_SECONDS,
    LONG_WAIT_SECONDS,
    REQUEST,
    Call,
    FakeClock,
    claim,
    claimed,
    submit,
)


@pytest.fixture
def processes(redis_server):
    """A function to open one more store on the same tasks."""
    from taskstore.redis import RedisStore

    prefix = f"test-{secrets.token_hex(8)}"
    stores = []

    def open_one(options="", prefix=prefix, limits=None, clock=None):
        stores.append(RedisStore(redis_server + options, limits or Limits(), prefix, clock))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def news_only(redis_server, monkeypatch):
    """Only news wake who waits; nobody looks by himself."""
    from taskstore.redis import notifications as redis_news

    monkeypatch.setattr(redis_news, "TICK_SECONDS", 10_000.0)


@pytest.fixture
def server(redis_server):
    import redis

    client = redis.Redis.from_url(redis_server)
    yield client
    client.close()


def parked(call):
    thread = Call(call)
    thread.wait_until_asleep()
    return thread


def waiting_claim(store, worker="waiting"):
    return lambda: claim(store, worker, lease_seconds=600.0, wait_seconds=LONG_WAIT_SECONDS)


def listening(store):
    """The store, once its thread has subscribed and done all that comes with that."""
    handled(store, "d", store._news._start)
    return store


def handled(store, sign, do):
    """Do something, and wait until the thread has dealt with the news that begin so."""
    done, handle = threading.Event(), store._news._handle

    def noting(news, is_time):
        handle(news, is_time)
        if any(one.startswith(sign) for one in news):
            done.set()

    store._news._handle = noting
    do()
    assert done.wait(GUARD_SECONDS)
    store._news._handle = handle


def lose_answers(store, name, monkeypatch, times=1):
    """The next answers of a script are lost on the way; it has run nevertheless."""
    import redis

    run, left = store._link._eval, [times]

    def losing(script, args):
        answer = run(script, args)
        if script == store._link._scripts[name] and left[0]:
            left[0] -= 1
            raise redis.ConnectionError("The answer was lost.")
        return answer

    monkeypatch.setattr(store._link, "_eval", losing)


def die_before(store, name, monkeypatch):
    """The process that has the store dies when it is about to run a script."""
    run = store._link.run

    def dying(script, *args, **options):
        if script == name:
            raise KeyboardInterrupt
        return run(script, *args, **options)

    monkeypatch.setattr(store._link, "run", dying)


# Between processes


def test_a_task_is_submitted_claimed_and_read_by_different_processes(processes):
    first, second, third = processes(), processes(), processes()
    submit(first)
    task = claimed(second)
    first.complete(1, "4", task.lease_id)
    assert third.get(1).task.result == "4"
    assert [store.status().finished for store in (first, second, third)] == [1, 1, 1]


def test_a_waiting_claim_is_woken_by_a_submission_to_another_process(processes, news_only):
    one, other = listening(processes()), processes()
    call = parked(waiting_claim(one))
    submit(other)
    assert call.result().task_id == 1


def test_a_waiting_get_is_woken_by_a_result_given_to_another_process(processes, news_only):
    one, other = listening(processes()), processes()
    submit(one)
    call = parked(lambda: one.get(1, LONG_WAIT_SECONDS))
    other.complete(1, "4")
    assert call.result().task.result == "4"


def test_a_reader_is_woken_by_text_that_comes_to_another_process(processes, news_only):
    one, other = listening(processes()), processes()
    submit(one)
    task = claimed(one)
    mark = one.read(1, Cursor()).cursor
    call = parked(lambda: one.read(1, mark, LONG_WAIT_SECONDS))
    other.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    assert call.result().pieces == [Piece(ANSWER, "Be")]


def test_a_lease_that_another_process_gave_ends_for_who_waits_here(processes, news_only):
    one, other = listening(processes(limits=Limits(max_attempts=1))), processes()
    submit(other)
    call = parked(lambda: one.get(1, LONG_WAIT_SECONDS))
    claimed(other, lease_seconds=0.1)
    assert call.result().task.state == "failed"


def test_news_that_come_while_a_claim_looks_in_vain_have_it_look_again(
    processes, news_only, monkeypatch
):
    one, other = listening(processes()), processes()
    lease, looks = one._lease, []

    def slow(*args):
        task = lease(*args)
        if not looks:
            looks.append(task)
            handled(one, "r", lambda: submit(other))
        return task

    monkeypatch.setattr(one, "_lease", slow)
    assert Call(waiting_claim(one)).result().task_id == 1


def test_many_submissions_wake_a_claim_each_over_all_processes(processes, news_only):
    stores = [listening(processes()) for _ in range(3)]
    calls = [parked(waiting_claim(store, f"gpu-{n}")) for n in range(10) for store in stores]
    submit(processes(), *["llama3"] * len(calls))
    assert sorted(call.result().task_id for call in calls) == list(range(1, len(calls) + 1))


def test_all_processes_count_durations_together(processes):
    one, other = processes(), processes()
    submit(one, "llama3", "llama3")
    one.complete(1, "4", claimed(one).lease_id)
    assert other.get(2).eta_seconds is not None


def test_each_of_many_tasks_is_done_once_by_threads_of_many_processes(processes):
    stores = [processes() for _ in range(3)]
    done, lock, all_done = [], threading.Lock(), threading.Event()

    def work(store, seed):
        dice = random.Random(seed)
        while not all_done.is_set():
            task = claim(store, f"gpu-{seed}", lease_seconds=600.0,
                         wait_seconds=dice.choice((0.0, 0.001, 0.1)))
            if task is None:
                continue
            if dice.random() < 0.2:
                store.release(task.task_id, task.lease_id)
                continue
            store.complete(task.task_id, "4", task.lease_id)
            with lock:
                done.append(task.task_id)
                if len(done) >= 150:
                    all_done.set()

    workers = [Call(lambda n=n: work(stores[n % 3], n)) for n in range(9)]
    submitters = [Call(lambda s=s: submit(s, *["llama3"] * 50)) for s in stores]
    try:
        for call in submitters + workers:
            call.result()
    finally:
        all_done.set()
    assert sorted(done) == list(range(1, 151))


# Connections


def connections(server, name):
    return [one for one in server.client_list() if one["name"] == name]


def test_a_hundred_who_wait_share_one_connection(processes, server):
    name = f"test-{secrets.token_hex(8)}"
    store = processes(f"?client_name={name}")
    submit(store)
    claimed(store, lease_seconds=600.0)
    calls = [parked(waiting_claim(store, f"gpu-{n}")) for n in range(50)]
    calls += [parked(lambda: store.get(1, LONG_WAIT_SECONDS)) for _ in range(50)]
    mine = connections(server, name)
    assert sum(int(one["sub"]) for one in mine) == 1
    assert len(mine) <= 6
    store.stop_waiting()
    for call in calls:
        call.result()


def test_news_come_again_after_the_connection_for_them_was_cut(processes, server, news_only):
    name = f"test-{secrets.token_hex(8)}"
    store, other = processes(f"?client_name={name}"), processes()
    submit(other)
    claimed(other, lease_seconds=600.0)
    claims = [parked(waiting_claim(store, f"gpu-{n}")) for n in range(3)]
    reader = parked(lambda: store.get(1, LONG_WAIT_SECONDS))
    for one in connections(server, name):
        server.client_kill_filter(_id=one["id"])
    submit(other, *["llama3"] * 3)
    other.complete(1, "4")
    assert sorted(call.result().task_id for call in claims) == [2, 3, 4]
    assert reader.result().task.result == "4"


def test_close_ends_all_connections_and_the_thread(processes, server):
    name = f"test-{secrets.token_hex(8)}"
    store = processes(f"?client_name={name}")
    call = parked(waiting_claim(store))
    store.close()
    assert call.result() is None
    store._news._thread.join(GUARD_SECONDS)
    assert not store._news._thread.is_alive()


# Who dies between two commands, and answers that are lost


def test_a_task_that_was_chosen_by_who_then_died_is_given_to_another(processes, monkeypatch):
    from taskstore.redis.store import RESERVE_SECONDS

    clock = FakeClock()
    dying, other = processes(clock=clock), processes(clock=clock)
    submit(other)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        claim(dying)
    assert other.status().queued == 1
    clock.advance(RESERVE_SECONDS)
    assert claimed(other).task_id == 1


def test_a_lease_whose_end_was_noticed_by_who_then_died_ends_nevertheless(processes, monkeypatch):
    from taskstore.redis.store import RESERVE_SECONDS

    clock = FakeClock()
    dying, other = processes(clock=clock), processes(clock=clock)
    submit(other)
    claimed(other, lease_seconds=30.0)
    clock.advance(30)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.status()
    clock.advance(RESERVE_SECONDS)
    assert claimed(other).attempt == 2


def test_a_result_that_comes_while_a_task_is_put_aside_is_taken(processes, monkeypatch):
    dying, other = processes(), processes()
    submit(other)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        claim(dying)
    assert other.complete(1, "4").state == "completed"
    assert other.status()[:3] == (0, 0, 1)


def test_a_submission_with_a_key_is_stored_once_though_its_answer_was_lost(processes, monkeypatch):
    store = processes()
    lose_answers(store, "submit", monkeypatch)
    assert store.submit(Submission("llama3", REQUEST, key="k")).task_id == 1
    assert store.status().queued == 1


def test_a_submission_without_a_key_is_not_repeated_when_its_answer_is_lost(
    processes, monkeypatch
):
    store = processes()
    lose_answers(store, "submit", monkeypatch)
    with pytest.raises(StoreDown):
        submit(store)
    assert store.status().queued == 1


@pytest.mark.parametrize("script", ["choose", "commit"])
def test_a_claim_whose_answer_was_lost_has_its_task(processes, monkeypatch, script):
    store = processes()
    submit(store, "llama3", "llama3")
    lose_answers(store, script, monkeypatch)
    task = claimed(store)
    assert store.get(task.task_id).task == task
    assert store.status()[:2] == (1, 1)


def test_an_append_whose_answer_was_lost_is_made_once(processes, monkeypatch):
    store = processes()
    submit(store)
    task = claimed(store)
    lose_answers(store, "commit", monkeypatch)
    assert store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")]) == (30.0, 2)
    assert store.get(1).text == "Be"


def test_a_task_that_is_erased_though_the_answer_was_lost_is_told_so(processes, monkeypatch):
    store = processes()
    submit(store)
    store.complete(1, "4")
    lose_answers(store, "forget", monkeypatch)
    assert store.cancel(1).result == "4"
    with pytest.raises(TaskNotFound):
        store.get(1)


def test_a_failure_whose_answer_was_lost_uses_up_one_attempt(processes, monkeypatch):
    store = processes()
    submit(store)
    lease_id = claimed(store).lease_id
    lose_answers(store, "commit", monkeypatch)
    assert store.fail(1, "It broke.", True, lease_id).attempt == 1
    assert store.status()[:2] == (1, 0)


def test_scripts_that_the_server_forgot_are_sent_again(processes, server):
    store = processes()
    submit(store)
    server.script_flush()
    assert claimed(store).task_id == 1


# Keys and URLs


def test_all_keys_have_the_prefix_and_share_a_slot(processes, server):
    prefix = f"test-{secrets.token_hex(8)}"
    store = processes(prefix=prefix)
    store.submit(Submission("llama3", REQUEST, "alice", 600.0, key="k"))
    submit(store, "llama3", "mistral")
    before = set(server.scan_iter(count=10_000))
    task = claimed(store, models=["llama3"])
    store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    store.complete(1, "4", task.lease_id)
    new = set(server.scan_iter(count=10_000)) - before
    mine = set(server.scan_iter("{" + prefix + "}:*", count=10_000))
    assert new and new <= mine


def test_tasks_of_another_prefix_are_another_stores(processes):
    one, other = processes(), processes("?prefix=test-other:x")
    submit(one)
    assert claim(other) is None
    assert other._link.keys == "{test-other:x}:"


def test_another_database_of_the_server_is_another_store(redis_server, processes):
    one = processes()
    other = open_store(redis_server[: redis_server.rindex("/")] + "/1?prefix=test")
    try:
        submit(one)
        assert claim(other) is None
        assert one._link.channel != other._link.channel
    finally:
        other.close()


@pytest.mark.parametrize("options", ["?prefix={x}", "?prefix=", "?db=x", "?nonsense=1"])
def test_a_url_that_cannot_be_read_is_refused(processes, options):
    with pytest.raises((CannotOpen, StoreDown)):
        processes(options)


def test_a_server_that_is_too_old_is_refused(processes, monkeypatch):
    from taskstore.redis import connection as redis_link

    monkeypatch.setattr(redis_link, "OLDEST_VERSION", (99, 0))
    with pytest.raises(CannotOpen, match="or newer is needed"):
        processes()


def test_tasks_of_another_schema_are_refused(processes, server):
    prefix = f"test-{secrets.token_hex(8)}"
    server.set("{" + prefix + "}:schema", "2")
    with pytest.raises(CannotOpen, match="another version"):
        processes(prefix=prefix)
