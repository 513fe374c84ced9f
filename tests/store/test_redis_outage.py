"""The store in Redis when Redis is down, killed, hung, full, or a replica by now."""
from __future__ import annotations

import signal

import pytest

from taskstore import ANSWER, CannotOpen, Limits, Piece, StoreDown, open_store
from tests.support.redis_server import RedisServer, binaries, free_port
from tests.support.stores import LONG_WAIT_SECONDS, Call, claim, claimed, submit


@pytest.fixture
def make_server(redis_server, tmp_path):
    """A function that starts a server of the test's own."""
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
    # With everysec, what a killed server has acknowledged may not even be in the file.
    return make_server("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def store(server, monkeypatch):
    from taskstore.redis import RedisStore
    from taskstore.redis import connection as redis_link

    monkeypatch.setattr(redis_link, "ANSWER_SECONDS", 1.0)
    opened = RedisStore(server.url, Limits())
    yield opened
    opened.close()


def parked(call):
    thread = Call(call)
    thread.wait_until_asleep()
    return thread


def waiting_claim(store):
    return lambda: claim(store, "waiting", lease_seconds=600.0, wait_seconds=LONG_WAIT_SECONDS)


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
}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_without_redis_every_verb_says_so_and_works_when_it_is_back(store, server, verb):
    submit(store)
    server.kill()
    with pytest.raises(StoreDown, match=str(server.port)):
        VERBS[verb](store)
    server.start()
    assert store.get(1).task.task_id == 1


def test_the_first_submission_after_redis_restarted_is_accepted(store, server):
    submit(store)
    server.kill()
    server.start()
    assert submit(store) == 2


@pytest.mark.parametrize("verb", ["submit", "claim", "get"])
def test_a_redis_that_hangs_is_not_waited_for(store, server, verb):
    submit(store)
    server.send(signal.SIGSTOP)
    call = Call(lambda: VERBS[verb](store))
    with pytest.raises(StoreDown):
        call.result()
    server.send(signal.SIGCONT)
    assert store.get(1).task.task_id == 1


def test_nothing_that_was_acknowledged_is_lost_when_redis_is_killed(store, server):
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


def test_those_who_wait_are_told_when_redis_goes(store, server):
    submit(store)
    claimed(store, lease_seconds=600.0)
    calls = [parked(waiting_claim(store)), parked(lambda: store.get(1, LONG_WAIT_SECONDS))]
    server.kill()
    for call in calls:
        with pytest.raises(StoreDown):
            call.result()


def test_those_who_wait_are_woken_again_once_redis_is_back(store, server):
    first = parked(waiting_claim(store))
    server.kill()
    with pytest.raises(StoreDown):
        first.result()
    server.start()
    second = parked(waiting_claim(store))
    submit(store)
    assert second.result().task_id == 1


def test_a_replica_is_not_written_to_and_a_master_again_is(store, server):
    submit(store)
    with server.client() as client:
        client.replicaof("127.0.0.1", free_port())
        with pytest.raises(StoreDown):
            submit(store)
        with pytest.raises(StoreDown):
            claim(store)
        client.replicaof("NO", "ONE")
    assert claimed(store).task_id == 1
    assert submit(store) == 2


def test_a_redis_that_is_full_refuses_and_keeps_its_books_in_order(store, server):
    submit(store)
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreDown):
            submit(store)
        client.config_set("maxmemory", "0")
    assert submit(store) == 2
    assert store.status().queued == 2


def test_a_password_is_asked_for(make_server):
    server = make_server("--requirepass", "secret")
    store = open_store(f"redis://:secret@127.0.0.1:{server.port}/0")
    assert submit(store) == 1
    store.close()
    for url in (server.url, f"redis://:wrong-one@127.0.0.1:{server.port}/0"):
        with pytest.raises(StoreDown) as caught:
            open_store(url)
        assert "wrong-one" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_in_one_line():
    pytest.importorskip("redis")
    with pytest.raises((StoreDown, CannotOpen), match=r"Redis at 127\.0\.0\.1:1 [^\n]*\.$"):
        open_store("redis://127.0.0.1:1/0")


def test_every_kind_of_server_that_is_installed_serves(make_server):
    for binary in binaries():
        store = open_store(make_server(binary=binary).url)
        submit(store)
        task = claimed(store)
        store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
        assert store.complete(1, "Because", task.lease_id) == store.get(1).task
        store.close()
