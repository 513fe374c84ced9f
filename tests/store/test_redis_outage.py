"""The Redis store when Redis is down, killed, hung, full, or has become a replica."""
from __future__ import annotations

import contextlib
import signal

import pytest

from taskstore import ANSWER, CannotOpen, Limits, Piece, StoreDown, StoreUnreachable, open_store
from taskstore.names import WorkerId
from tests.support.ports import lasting_port
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer, binaries
from tests.support.redis_stores import asleep, waiting_claim
from tests.support.stores import LONG_WAIT_SECONDS, Call, FakeClock, claim, claimed, submit


@pytest.fixture
def make_server(redis_server, tmp_path):
    """A function that starts a Redis server for one test."""
    if not binaries():
        pytest.skip("REDIS_URL names a server that cannot be started and stopped")
    servers = []

    def make(*options, binary=""):
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(RedisServer(folder, binary, *options))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def server(make_server):
    # With everysec, a killed server may not have written all that it acknowledged.
    return make_server("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def store(server):
    opened = open_store(server.url)
    yield opened
    opened.close()


@pytest.fixture
def impatient_store(server, monkeypatch):
    from taskstore.redis import connection

    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    opened = []

    def is_open():
        # On a busy machine, Redis may take longer to answer.
        with contextlib.suppress(StoreUnreachable):
            opened.append(open_store(server.url))
        return opened

    wait_until(is_open, "Redis answers in time")
    yield opened[0]
    opened[0].close()


VERBS = {
    "submit": lambda store: submit(store),
    "claim": lambda store: claim(store),
    "waiting claim": lambda store: waiting_claim(store)(),
    "renew": lambda store: store.renew(1, "x" * 16),
    "append": lambda store: store.append(1, "x" * 16, 0, [Piece(ANSWER, "x")]),
    "complete": lambda store: store.complete(1, "4"),
    "get": lambda store: store.get(1),
    "waiting get": lambda store: store.get(1, LONG_WAIT_SECONDS),
    "cancel": lambda store: store.cancel(1),
    "status": lambda store: store.status(),
    "leave": lambda store: store.leave("gpu-1"),
    "release others": lambda store: store.release_others(WorkerId("", "gpu-1", "one"), []),
    "check": lambda store: store.check(),
}


def test_every_verb_raises_store_down_without_redis_and_works_again_with_it(store, server):
    submit(store)
    server.kill()
    for verb in VERBS:
        with pytest.raises(StoreUnreachable, match=str(server.port)):
            VERBS[verb](store)
            pytest.fail(verb)
    server.start()
    assert store.get(1).task.task_id == 1


def test_the_first_submission_after_redis_restarted_is_accepted(store, server):
    submit(store)
    server.kill()
    server.start()
    assert submit(store) == 2


def test_a_verb_gives_up_when_redis_hangs(store, impatient_store, server):
    submit(store)
    server.send(signal.SIGSTOP)
    calls = [Call(lambda verb=verb: VERBS[verb](impatient_store))
             for verb in ("submit", "claim", "get")]
    for call in calls:
        with pytest.raises(StoreUnreachable):
            call.result()
    server.send(signal.SIGCONT)
    assert store.get(1).task.task_id == 1


def test_nothing_acknowledged_is_lost_when_redis_is_killed(store, server):
    ids = submit(store, *["llama3"] * 5)
    done, leased = claimed(store), claimed(store, lease_seconds=600.0)
    store.complete(done.task_id, "4", done.lease_id)
    store.append(leased.task_id, leased.lease_id, 0, [Piece(ANSWER, "Be")])
    server.kill()
    server.start()
    assert store.get(done.task_id).task.result == "4"
    assert store.get(leased.task_id).text == "Be"
    assert store.complete(leased.task_id, "Because", leased.lease_id).state == "completed"
    assert [claimed(store).task_id for _ in range(3)] == ids[2:]
    assert submit(store) == 6


def test_waiting_requests_raise_store_down_when_redis_dies(store, server):
    submit(store)
    claimed(store, lease_seconds=600.0)
    calls = [asleep(waiting_claim(store)), asleep(lambda: store.get(1, LONG_WAIT_SECONDS))]
    server.kill()
    for call in calls:
        with pytest.raises(StoreDown):
            call.result()


def test_a_waiting_claim_wakes_again_after_redis_restarted(store, server):
    first = asleep(waiting_claim(store))
    server.kill()
    with pytest.raises(StoreDown):
        first.result()
    server.start()
    second = asleep(waiting_claim(store))
    submit(store)
    assert second.result().task_id == 1


def test_the_store_works_again_after_a_replica_became_the_primary(store, server):
    submit(store)
    with server.client() as client:
        client.replicaof("127.0.0.1", lasting_port())
        with pytest.raises(StoreDown):
            submit(store)
        with pytest.raises(StoreDown):
            claim(store)
        client.replicaof("NO", "ONE")
    assert claimed(store).task_id == 1
    assert submit(store) == 2


def test_a_full_redis_refuses_tasks_and_counts_right_afterwards(store, server):
    submit(store)
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreDown) as full:
            submit(store)
        assert full.type is StoreDown
        with pytest.raises(StoreDown):
            store.check()
        client.config_set("maxmemory", "0")
    store.check()
    assert submit(store) == 2
    assert store.status().queued == 2


def test_tasks_can_be_read_while_redis_is_full(store, server):
    from taskstore.redis import RedisStore

    submit(store)
    # The clock is not what was stored, so that reading tries to store it.
    reader = RedisStore(server.url, Limits(), redis_clock=FakeClock())
    with server.client() as client:
        client.config_set("maxmemory", "1")
        assert reader.get(1).task.state == "queued"
    reader.close()


def test_a_full_redis_can_be_emptied(store, server):
    for task_id in submit(store, "llama3", "llama3"):
        store.complete(task_id, "42")
    with server.client() as client:
        client.config_set("maxmemory", "1")
        assert store.erase(1).result == "42"
        assert store.cancel(2).result == "42"
        client.config_set("maxmemory", "0")
    assert store.status().finished == store.size_bytes() == 0


def test_a_missing_or_wrong_password_is_refused_and_not_shown(make_server):
    server = make_server("--requirepass", "secret")
    store = open_store(f"redis://:secret@127.0.0.1:{server.port}/0")
    assert submit(store) == 1
    store.close()
    for url in (server.url, f"redis://:wrong-one@127.0.0.1:{server.port}/0"):
        with pytest.raises(StoreDown) as caught:
            open_store(url)
        assert "wrong-one" not in str(caught.value)


def test_an_unreachable_redis_is_named_in_one_line():
    pytest.importorskip("redis")
    with pytest.raises((StoreDown, CannotOpen), match=r"Redis at 127\.0\.0\.1:1 [^\n]*\.$"):
        open_store("redis://127.0.0.1:1/0")


def test_every_installed_kind_of_server_works(make_server):
    for binary in binaries():
        store = open_store(make_server(binary=binary).url)
        submit(store)
        task = claimed(store)
        store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
        assert store.complete(1, "Because", task.lease_id) == store.get(1).task
        store.close()
