"""The Redis store cancels the tasks whose clients waited at a Manage Server that is gone."""
from __future__ import annotations

import os

import pytest

from taskstore import Submission
from taskstore.limits import MAX_SERVER_SILENCE_SECONDS
from tests.support.redis_stores import die_before, handled, listening
from tests.support.relayed import extended_claim, submit_relayed
from tests.support.stores import REQUEST, FakeClock, submit


@pytest.fixture
def servers(new_process):
    """Two Manage Servers with the same clock; how to advance it, second by second, with the beats
    of the servers that are named; and a third server."""
    clock = FakeClock()
    one, two, three = (new_process(clock=clock) for _ in range(3))

    def pass_time(seconds, *beating):
        for _ in range(int(seconds)):
            clock.advance(1)
            for server in beating:
                server._tick()

    return one, two, pass_time, three


def state(store, task_id=1):
    return store.get(task_id).task.state


def submit_at(store, **more):
    return submit_relayed(store, server=store.server_id, **more)


def test_a_server_that_beats_keeps_its_tasks(servers):
    one, two, pass_time, _ = servers
    submit_at(one)
    pass_time(60, one, two)
    assert state(two) == "queued"


@pytest.mark.parametrize("has_beaten", [True, False])
def test_the_tasks_of_a_silent_server_are_cancelled(servers, has_beaten):
    one, two, pass_time, _ = servers
    if has_beaten:
        one._tick()
    submit_at(one)
    submit_at(one)
    extended_claim(two)
    moves = []
    two.on_move = lambda old, new: moves.append((old.state, new.state, new.error))
    pass_time(MAX_SERVER_SILENCE_SECONDS - 1, two)
    assert [state(two, task_id) for task_id in (1, 2)] == ["running", "queued"]
    pass_time(1, two)
    assert [state(two, task_id) for task_id in (1, 2)] == ["cancelled", "cancelled"]
    assert moves == [("running", "cancelled", "Its client hung up."),
                     ("queued", "cancelled", "Its client hung up.")]


def test_a_server_that_has_much_to_do_at_once_keeps_its_tasks(new_process, monkeypatch):
    clock = FakeClock()
    one, two = new_process(clock=clock), new_process(clock=clock)
    submit_at(one)
    for _ in range(60):
        one.submit(Submission("llama3", REQUEST, ttl_seconds=1.0))
    clock.advance(1)
    commit = one._table.commit

    def commit_slowly(*args):
        clock.advance(0.25)
        two._servers.beat(two.server_id)
        return commit(*args)

    monkeypatch.setattr(one._table, "commit", commit_slowly)
    one._tick()
    assert two.status()[:3] == (1, 0, 60)
    assert state(two) == "queued"


def test_tasks_that_are_wanted_in_any_case_outlive_the_server(servers):
    one, two, pass_time, _ = servers
    submit_relayed(one)
    submit(one)
    submit_at(one)
    pass_time(20, two)
    assert [state(two, task_id) for task_id in (1, 2, 3)] == ["queued", "queued", "cancelled"]


def test_a_task_that_was_joined_belongs_to_the_other_server(servers):
    one, two, pass_time, _ = servers
    submit_at(one, key="k")
    submit_at(two, key="k")
    pass_time(20, two)
    assert state(two) == "queued"
    pass_time(20, one)
    assert state(one) == "cancelled"


def test_a_process_that_dies_while_it_cancels_loses_no_task(servers, monkeypatch):
    one, two, pass_time, three = servers
    for _ in range(3):
        submit_at(one)
    pass_time(MAX_SERVER_SILENCE_SECONDS)
    commit, calls = two._table.commit, []

    def commit_once(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return commit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(two._table, "commit", commit_once)
        with pytest.raises(KeyboardInterrupt):
            two._tick()
    assert three.status().queued == 2
    three._tick()
    assert three.status().queued == 0


def test_more_tasks_than_are_cancelled_at_once_are_all_cancelled(servers):
    one, two, pass_time, _ = servers
    for _ in range(120):
        submit_at(one)
    pass_time(10)
    two._tick()
    assert two.status()[:3] == (0, 0, 120)


def test_a_server_that_closes_cancels_its_own_tasks_at_once(servers):
    one, two, _, _ = servers
    submit_at(one)
    submit_at(two)
    one.close()
    assert [state(two, task_id) for task_id in (1, 2)] == ["cancelled", "queued"]


def test_a_closing_server_that_dies_leaves_its_tasks_to_the_others(servers, monkeypatch):
    one, two, _, _ = servers
    submit_at(one)
    die_before(one, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        one.close()
    monkeypatch.undo()
    assert state(two) == "queued"
    two._tick()
    assert state(two) == "cancelled"


def test_nothing_is_kept_of_a_server_that_is_gone(servers, redis_client):
    one, two, pass_time, _ = servers
    prefix = two._connection.keys
    submit_at(one)
    submit_at(two)
    two.complete(2, "")
    pass_time(10, two)
    assert redis_client.zrange(f"{prefix}servers", 0, -1) == [two.server_id.encode()]
    assert not list(redis_client.scan_iter(f"{prefix}wanted:*", count=10_000))


def test_a_tick_of_the_thread_beats(new_process):
    store = listening(new_process())
    client, channel = store._connection._client, store._connection.channel
    handled(store, "d", lambda: client.publish(channel, "d"))
    assert client.zscore(f"{store._connection.keys}servers", store.server_id) is not None


def test_a_forked_process_is_another_server(new_process):
    store = new_process()
    parent, (reading, writing) = store.server_id, os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, store.server_id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() not in (parent, "")
    os.close(reading)
    os.close(writing)


def test_an_outage_of_redis_is_no_silence_of_its_servers(new_process):
    redis_clock = FakeClock()
    one, two = (new_process(redis_clock=redis_clock) for _ in range(2))
    one._tick()
    submit_at(one)
    redis_clock.advance(3600)
    two._tick()
    redis_clock.advance(3)
    one._tick()
    two._tick()
    assert state(two) == "queued"
