"""The crash suite for a few rounds; `make crash` runs it at length."""
from __future__ import annotations

import signal

import pytest

from tests.crash import run as crash
from tests.crash.ledger import KINDS
from tests.support import redis_server
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.services import require_service

SEED = 3


@pytest.fixture(params=["sqlite", "redis"])
def store(request):
    if request.param == "redis":
        require_service(redis_server.why_missing())
    return request.param


@pytest.mark.timeout(600)
def test_no_acknowledged_task_is_lost_or_duplicated(store):
    # Otherwise the run says nothing of prefetched tasks.
    figures = crash.run(
        store, 3, SEED, until=("prefetched tasks begun", "prefetched tasks lost"))
    assert {kind: figures[kind] for kind in KINDS} == dict.fromkeys(KINDS, 0)
    assert figures["submissions acknowledged"] >= 10 * figures["rounds"]
    assert (figures["results delivered"] + figures["failed"]
            + figures["cancelled"] == figures["submissions acknowledged"])


def test_the_loss_of_tasks_in_memory_is_found():
    with pytest.raises(crash.ViolationFound, match=r"lost|duplicated|changed"):
        crash.run("memory", 50, SEED)


def test_no_task_in_memory_is_lost_or_duplicated_while_its_server_lives():
    figures = crash.run("memory", 3, SEED, keeps_servers=True)
    assert {kind: figures[kind] for kind in KINDS} == dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize("how", ["before", "during", "after"])
def test_the_server_can_kill_itself_at_a_store_call(store, how, tmp_path):
    redis = redis_server.RedisServer(tmp_path) if store == "redis" else None
    url = redis.url if redis else f"sqlite://{tmp_path}/tasks.db"
    try:
        with Process("tests/crash/crashing_server.py", "--manage-port", "0", "--task-store", url,
                     environ={"CRASH_AT": "2", "CRASH_HOW": how}) as process:
            assert process.exit_code() == -signal.SIGKILL
    finally:
        if redis:
            redis.kill()


def test_a_run_that_fails_to_start_closes_what_it_started(monkeypatch, tmp_path):
    closed = []
    monkeypatch.setattr(Proxy, "close", lambda proxy: closed.append(proxy))
    monkeypatch.setattr(crash, "ManageServers", None)
    with pytest.raises(TypeError):
        crash.Run("memory", tmp_path, SEED)
    assert len(closed) == 2
