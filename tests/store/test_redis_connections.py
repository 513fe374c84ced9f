"""How the Redis store keeps its connections and its scripts, and what it does not ask Redis for."""
from __future__ import annotations

import re

import pytest

from tests.support.redis_stores import caught_up, connections_named, handled, listening
from tests.support.stores import claimed, submit

pytest.importorskip("redis")

from taskstore.redis.constants import CONSTANTS
from taskstore.redis.idle_connections import IdleConnections, NoConnection
from taskstore.redis.scripts import load_scripts

SCRIPTS = load_scripts(**CONSTANTS)


class Connection:
    def __init__(self):
        self.is_open = True

    def disconnect(self):
        self.is_open = False


@pytest.fixture
def idle():
    return IdleConnections(Connection, 2, 0.0, answers=KeyError)


def test_the_connection_that_was_used_last_is_used_next(idle):
    with idle.take(is_new=False) as one, idle.take(is_new=False) as other:
        assert one is not other
    for _ in range(3):
        with idle.take(is_new=False) as again:
            assert again is one


def test_no_more_connections_are_used_than_there_may_be(idle):
    with idle.take(is_new=False), idle.take(is_new=False), pytest.raises(NoConnection):
        idle.take(is_new=False).__enter__()
    with idle.take(is_new=False) as connection:
        assert connection.is_open


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_connection_that_may_get_an_old_answer_is_closed(idle, error):
    with pytest.raises(error), idle.take(is_new=False) as connection:
        raise error
    assert not connection.is_open


def test_a_connection_stays_open_when_the_answer_is_an_error(idle):
    with pytest.raises(KeyError), idle.take(is_new=False) as connection:
        raise KeyError
    assert connection.is_open


def test_a_second_try_opens_the_connection_anew(idle):
    with idle.take(is_new=True) as connection:
        assert not connection.is_open


def test_a_forked_process_leaves_the_connections_of_the_other_alone(idle, monkeypatch):
    with idle.take(is_new=False) as parents:
        pass
    monkeypatch.setattr("os.getpid", lambda: -1)
    with idle.take(is_new=False) as mine:
        assert mine is not parents
    assert parents.is_open


def test_verbs_work_though_redis_has_closed_all_connections(new_process, redis_client):
    store = new_process("?client_name=closed")
    for task_id in (1, 2, 3):
        assert submit(store) == task_id
        for connection in connections_named(redis_client, "closed"):
            redis_client.client_kill_filter(_id=connection["id"])
    assert store.status().queued == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_only_the_functions_that_it_uses(name):
    code = re.sub(r"^ *--.*$", "", SCRIPTS[name], flags=re.MULTILINE)
    words = re.findall(r"\w+", code)
    defined = re.findall(r"^local function (\w+)", code, re.MULTILINE)
    assert [function for function in defined if words.count(function) < 2] == []
    assert "current_time" in defined


def test_nothing_is_asked_when_a_lease_begins_that_ends_after_the_next_tick(
    new_process, without_ticks, monkeypatch
):
    store, scripts = caught_up(listening(new_process())), []
    submit(store)
    run = store._connection.run
    monkeypatch.setattr(
        store._connection, "run", lambda name, *args: (scripts.append(name), run(name, *args))[1])
    handled(store, "t", lambda: claimed(store, lease_seconds=600.0))
    assert scripts == ["claim"]


def test_commands_are_packed_as_redis_py_packs_them():
    import redis

    from taskstore.redis.connection import _pack

    command = ("EVALSHA", "caf\u00e9 \ud800", b"\x00\xff\r\n", "", 0, -3, 2**53, 1.5, 1e-7, 1 / 3)
    connection = redis.Connection(encoding_errors="surrogatepass")
    assert _pack(*command) == b"".join(connection.pack_command(*command))
