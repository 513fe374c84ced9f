"""The keys, prefixes, databases and schemas of the Redis store, and the URLs it refuses."""
from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taskstore import ANSWER, CannotOpen, Inventory, Piece, StoreDown, Submission, open_store
from taskstore.names import WorkerId
from tests.support.redis_stores import die_before
from tests.support.relayed import relayed
from tests.support.stores import REQUEST, FakeClock, claim, claimed, peek, prefetched, submit

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMA_1 = ROOT / "tests" / "store" / "redis_schema_1.json"
KEYS = ROOT / "taskstore" / "redis" / "keys.md"


@pytest.fixture
def prefix():
    return f"test-{secrets.token_hex(8)}"


@pytest.fixture
def redis_clock():
    return FakeClock()


@pytest.fixture
def store(new_process, prefix, redis_clock):
    return new_process(prefix=prefix, redis_clock=redis_clock)


def use_all_keys(store):
    """Have a queued, a prefetched, a running and a completed task, of a named user and of nobody,
    and a background task."""
    store.submit(Submission("llama3", REQUEST, "alice", 600.0, key="k"))
    submit(store, "llama3", "llama3", "mistral")
    store.submit(Submission("llama3", REQUEST, is_background=True))
    running, completed = (claimed(store, models=["llama3"]) for _ in range(2))
    store.append(running.task_id, running.lease_id, 0, [Piece(ANSWER, "Be")])
    store.complete(completed.task_id, "4", completed.lease_id)
    store.submit(relayed(server="one"))
    for models in (["mistral"], ["qwen3"], [f"model-{n}" for n in range(300)]):
        claim(store, "gpu-2", models, instance="one")
    store.set_inventory(WorkerId("", "gpu-2", "one"), Inventory("digest", b"{}"))
    submit(store, "mistral")
    prefetched(store, worker="gpu-3", models=["llama3", "mistral"],
               prefers=frozenset(["mistral:latest"]))


def test_all_keys_have_the_prefix_and_share_a_slot(store, prefix, redis_client):
    before = set(redis_client.scan_iter(count=10_000))
    use_all_keys(store)
    new = set(redis_client.scan_iter(count=10_000)) - before
    mine = set(redis_client.scan_iter("{" + prefix + "}:*", count=10_000))
    assert new and new <= mine


def test_keys_md_lists_every_key_with_its_type(
    store, prefix, redis_client, redis_clock, monkeypatch
):
    use_all_keys(store)
    redis_clock.advance(10)
    die_before(store, "take_due", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        store.status()
    listed = {
        (key.partition("<")[0], {"sorted set": "zset"}.get(kind, kind))
        for key, kind in re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \|", KEYS.read_text(), re.M)
        if kind in ("string", "hash", "list", "set", "sorted set")
    }
    names = [key.decode()[len(prefix) + 3:] for key in redis_client.scan_iter("{" + prefix + "}:*")]
    types = {name: redis_client.type("{" + prefix + "}:" + name).decode() for name in names}
    stored = {(re.sub(r":.*", ":", name), kind) for name, kind in types.items()}
    assert stored == listed


def test_a_task_stored_by_an_older_version_is_read_and_run(
    store, prefix, redis_client, redis_clock
):
    submit(store)
    store.fail(1, "It broke.", True, claimed(store).lease_id)
    key = "{" + prefix + "}:task:1"
    fields, queued = redis_client.hget(key, "t"), peek(store, 1)
    assert b'"text_epoch": 1' in fields
    redis_client.hset(key, mapping={"t": fields.replace(b"text_epoch", b"claims"), "n": "version"})
    assert peek(store, 1) == queued
    for _ in range(2):
        redis_clock.advance(1)
        store.status()
    second = claimed(store)
    assert (second.attempt, second.text_epoch) == (2, 2)
    assert peek(store, 1) == second
    assert store.complete(1, "4", second.lease_id) == peek(store, 1)


def test_scripts_are_also_read_from_a_zip_file(redis_server, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", ROOT, "taskstore")
    code = "from taskstore.redis import RedisStore; print(RedisStore.__module__)"
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": archive}, cwd=str(tmp_path),
        stdout=subprocess.PIPE, check=True)
    assert found.stdout.split() == [b"taskstore.redis.store"]


def test_another_prefix_is_another_store(new_process):
    one, other = new_process(), new_process("?prefix=test-other:x")
    submit(one)
    assert claim(other) is None
    assert other._connection.keys == "{test-other:x}:"


def test_another_database_is_another_store(redis_server, new_process):
    one = new_process()
    other = open_store(redis_server[: redis_server.rindex("/")] + "/1?prefix=test")
    try:
        submit(one)
        assert claim(other) is None
        assert one._connection.channel != other._connection.channel
    finally:
        other.close()


@pytest.mark.parametrize("options", ["?prefix={x}", "?prefix=", "?db=x", "?nonsense=1"])
def test_an_invalid_url_is_refused(new_process, options):
    with pytest.raises((CannotOpen, StoreDown)):
        new_process(options)


def test_a_redis_that_is_too_old_is_refused(new_process, monkeypatch):
    from taskstore.redis import connection

    monkeypatch.setattr(connection, "OLDEST_VERSION", (99, 0))
    with pytest.raises(CannotOpen, match="or newer is required"):
        new_process()


def test_tasks_of_an_incompatible_version_are_refused(new_process, prefix, redis_client):
    redis_client.set("{" + prefix + "}:schema", "5")
    with pytest.raises(CannotOpen, match="incompatible version"):
        new_process(prefix=prefix)


@pytest.fixture
def store_of_schema_1(new_process, prefix, redis_client, clock):
    """A store whose keys were written by the version before `schema` 2, 20 seconds ago."""
    keys = "{" + prefix + "}:"
    write = {
        "string": redis_client.set,
        "hash": lambda key, value: redis_client.hset(key, mapping=value),
        "set": lambda key, value: redis_client.sadd(key, *value),
        "list": lambda key, value: redis_client.rpush(key, *value),
        "zset": lambda key, value: redis_client.zadd(key, dict(map(tuple, value))),
    }
    for key, (kind, value) in json.loads(SCHEMA_1.read_text()).items():
        write[kind](keys.encode() + key.encode("latin-1"), encoded(value))
    clock.advance(20)
    return new_process(prefix=prefix, clock=clock)


def encoded(value):
    """The bytes that JSON stands for here."""
    if isinstance(value, dict):
        return {encoded(name): encoded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [encoded(one) for one in value]
    return value.encode("latin-1") if isinstance(value, str) else value


def test_tasks_of_schema_1_are_read_and_run(store_of_schema_1):
    store = store_of_schema_1
    running = store.get(1, owner="alice")
    assert (running.task.state, running.text) == ("running", "Be\U0001f600")
    assert running.lease_expires_seconds == 30
    assert store.get(2).task.result == "4"
    assert store.status() == (4, 2, 1, [])
    assert store.complete(1, "4", running.task.lease_id).state == "completed"
    ids = [claimed(store, models=["llama3", "mistral", "grüße"]).task_id for _ in range(4)]
    assert sorted(ids) == [3, 4, 6, 7]
    assert store.status()[:3] == (0, 5, 2)


def test_tasks_of_schema_1_are_listed_and_counted(store_of_schema_1):
    store = store_of_schema_1
    listed = {owner: [one.task.task_id for one in store.list_tasks(owner)]
              for owner in ("alice", "bob", "")}
    assert listed == {"alice": [1], "bob": [6, 5], "": [7, 4, 3, 2]}
    assert sum(model.queued for model in store.counts()) == 4
    assert sum(model.running for model in store.counts()) == 2


def test_tasks_of_schema_2_are_listed_and_counted(new_process, prefix, redis_client, clock):
    older = new_process(prefix=prefix, clock=clock)
    submit(older, "llama3", "llama3", "mistral")
    running, completed = claimed(older), claimed(older)
    older.complete(completed.task_id, "4")
    keys = "{" + prefix + "}:"
    redis_client.delete(keys + "model_counts", *redis_client.keys(keys + "tasks:*"))
    redis_client.hdel(f"{keys}task:{completed.task_id}", "l")
    redis_client.set(keys + "schema", "2")
    store = new_process(prefix=prefix, clock=clock)
    assert [one.task.state for one in store.list_tasks("")] == ["queued", "completed", "running"]
    assert store.list_tasks("", frozenset(["completed"]))[0].task.result == "4"
    assert store.counts() == [("llama3:latest", 0, 1), ("mistral:latest", 1, 0)]
    store.complete(running.task_id, "4")
    assert store.owner_counts("") == (1, 0, 2)
    assert redis_client.get(keys + "schema") == b"4"


def test_the_workers_of_schema_1_keep_tasks_waiting(store_of_schema_1):
    submit(store_of_schema_1, "llama3")
    assert store_of_schema_1.get(8).worker_seen_seconds is not None


def test_all_that_schema_1_stored_is_counted(store_of_schema_1, prefix, redis_client):
    store = store_of_schema_1
    for task_id, owner in ((1, "alice"), (3, ""), (4, ""), (5, "bob"), (6, "bob"), (7, "")):
        store.cancel(task_id, owner)
    counts = redis_client.hgetall("{" + prefix + "}:counts")
    assert counts[b"bytes"] == counts[b"finished_bytes"]
    assert [counts[name] for name in (b"queued", b"running", b"owners", b"unfinished_bytes")] == [
        b"0"] * 4
