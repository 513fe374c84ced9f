"""The contract of every task store: what workers reported of their Ollama."""
from __future__ import annotations

import pytest

from taskstore import Inventory
from taskstore.limits import CONNECTED_GRACE_SECONDS, MAX_WORKERS_PER_HOLDER
from taskstore.names import WorkerId
from tests.support.stores import claim, claimed, submit

KIB = 1024
MAX_INVENTORY_BYTES = 64 * KIB
EMPTY = Inventory("empty", b"{}")


@pytest.fixture
def few_bytes(set_limit):
    set_limit("MAX_INVENTORY_BYTES", MAX_INVENTORY_BYTES)


def connect(store, name="gpu-1", instance="one", models=("llama3",), holder=""):
    claim(store, name, models, instance=instance, holder=holder)
    return WorkerId(holder, name, instance)


def workers(store):
    return [one.worker for one in store.inventories()]


def test_what_a_worker_reported_is_returned_as_it_was(store):
    worker = connect(store, holder="home")
    inventory = Inventory("digest-ü", '{"models":["grüße"]}'.encode() + b"\0\xff")
    store.set_inventory(worker, inventory)
    store.set_loaded(worker, b'[{"name":"llama3"}]')
    assert store.inventory_digest(worker) == "digest-ü"
    assert store.inventories() == [("home/gpu-1", inventory, b'[{"name":"llama3"}]')]


def test_a_worker_that_has_not_reported_has_no_inventory(store):
    worker = connect(store)
    assert store.inventory_digest(worker) == ""
    store.set_loaded(worker, b"[]")
    assert (store.inventory_digest(worker), store.inventories()) == ("", [])


def test_a_worker_that_reports_no_loaded_models_has_an_empty_list(store):
    store.set_inventory(connect(store), EMPTY)
    assert store.inventories() == [("gpu-1", EMPTY, b"")]


def test_a_report_replaces_the_one_before(store):
    worker = connect(store)
    store.set_inventory(worker, EMPTY)
    store.set_loaded(worker, b"[1]")
    second = Inventory("second", b'{"version":"2"}')
    store.set_inventory(worker, second)
    store.set_loaded(worker, b"[]")
    assert store.inventories() == [("gpu-1", second, b"[]")]
    store.set_loaded(worker, b"[1]")
    assert store.inventories() == [("gpu-1", second, b"[1]")]


def test_the_report_of_a_worker_that_never_claimed_is_dropped(store):
    worker = WorkerId("", "gpu-1", "one")
    store.set_inventory(worker, EMPTY)
    store.set_loaded(worker, b"[1]")
    connect(store)
    assert (store.inventory_digest(worker), store.inventories()) == ("", [])


def test_workers_of_one_name_have_inventories_of_their_own(store):
    for instance in ("two", "one"):
        store.set_inventory(connect(store, instance=instance), Inventory(instance, b"{}"))
    assert [one.inventory.digest for one in store.inventories()] == ["one", "two"]
    assert workers(store) == ["gpu-1", "gpu-1"]


def test_inventories_stay_in_order_whoever_was_last_in_contact(store, clock):
    for holder, name in (("b", "y"), ("", "z"), ("b", "x")):
        store.set_inventory(connect(store, name, holder=holder), EMPTY)
    clock.advance(1)
    connect(store, "z")
    assert workers(store) == ["z", "b/x", "b/y"]


def test_only_connected_workers_are_listed_but_the_others_are_remembered(store, clock):
    worker = connect(store)
    store.set_inventory(worker, EMPTY)
    clock.advance(CONNECTED_GRACE_SECONDS)
    assert store.inventories() == []
    assert store.inventory_digest(worker) == "empty"
    connect(store)
    assert workers(store) == ["gpu-1"]


def test_a_worker_that_leaves_is_listed_no_more(store):
    store.set_inventory(connect(store), EMPTY)
    store.leave("gpu-1", "one")
    assert store.inventories() == []


def test_a_worker_whose_lease_ended_in_silence_is_listed_no_more(store, clock):
    submit(store)
    worker = WorkerId("", "gpu-1", "one")
    claimed(store, lease_seconds=10, instance="one")
    store.set_inventory(worker, EMPTY)
    assert workers(store) == ["gpu-1"]
    clock.advance(10)
    assert store.inventories() == []


def test_an_inventory_is_a_contact_with_its_worker(store, clock):
    worker = connect(store)
    clock.advance(CONNECTED_GRACE_SECONDS - 1)
    store.set_inventory(worker, EMPTY)
    clock.advance(CONNECTED_GRACE_SECONDS - 1)
    assert workers(store) == ["gpu-1"]
    store.set_inventory(worker, EMPTY)
    clock.advance(CONNECTED_GRACE_SECONDS - 1)
    assert workers(store) == ["gpu-1"]


def test_an_inventory_outlives_a_change_of_models(store):
    worker = connect(store, models=["llama3"])
    store.set_inventory(worker, EMPTY)
    store.set_loaded(worker, b"[1]")
    connect(store, models=["llama3", "mistral"])
    assert store.inventories() == [("gpu-1", EMPTY, b"[1]")]


def test_an_inventory_is_forgotten_with_its_worker(store, clock):
    worker = connect(store, "first")
    store.set_inventory(worker, EMPTY)
    for n in range(MAX_WORKERS_PER_HOLDER):
        clock.advance(0.125)
        connect(store, f"gpu-{n}")
    connect(store, "first")
    assert (store.inventory_digest(worker), store.inventories()) == ("", [])


def reporting(store, clock, count, size_bytes, loaded=b""):
    """Workers that report this much, one after the other."""
    found = []
    for n in range(count):
        clock.advance(0.125)
        found.append(connect(store, f"gpu-{n:02}"))
        store.set_inventory(found[-1], Inventory(f"digest-{n}", b"x" * size_bytes))
        store.set_loaded(found[-1], loaded)
    return found


@pytest.mark.usefixtures("few_bytes")
def test_inventories_of_workers_in_contact_longest_ago_are_forgotten_when_there_are_too_many_bytes(
    store, clock
):
    known = reporting(store, clock, 16, 4 * KIB)
    clock.advance(0.125)
    connect(store, known[0].name)
    new = connect(store, "new")
    store.set_inventory(new, Inventory("new", b"x"))
    forgotten = [one.name for one in known if not store.inventory_digest(one)]
    assert forgotten == ["gpu-01"]
    assert len(store.inventories()) == 16


@pytest.mark.usefixtures("few_bytes")
def test_loaded_models_count_towards_the_bytes_of_inventories(store, clock):
    known = reporting(store, clock, 16, 4 * KIB - 2, loaded=b"[]")
    assert len(store.inventories()) == 16
    store.set_loaded(known[15], b"[1]")
    assert [one.worker for one in store.inventories()] == [f"gpu-{n:02}" for n in range(1, 16)]


@pytest.mark.usefixtures("few_bytes")
def test_bytes_of_an_inventory_that_is_replaced_or_forgotten_count_no_more(store, clock):
    known = reporting(store, clock, 2, MAX_INVENTORY_BYTES // 2)
    for n in range(4):
        store.set_inventory(known[1], Inventory(str(n), bytes([n]) * (MAX_INVENTORY_BYTES // 2)))
    assert len(store.inventories()) == 2
    for n in range(MAX_WORKERS_PER_HOLDER - 1):
        clock.advance(0.125)
        connect(store, f"other-{n}")
    last = connect(store, "last")
    store.set_inventory(last, Inventory("last", b"x" * (MAX_INVENTORY_BYTES // 2)))
    assert store.inventory_digest(known[1]) == ""
    third = connect(store, "third")
    store.set_inventory(third, Inventory("third", b"x" * (MAX_INVENTORY_BYTES // 2)))
    assert workers(store) == ["last", "third"]


@pytest.mark.usefixtures("few_bytes")
def test_an_inventory_that_exceeds_the_bound_by_itself_is_not_kept(store):
    worker = connect(store)
    store.set_inventory(worker, Inventory("huge", b"x" * (MAX_INVENTORY_BYTES + 1)))
    assert store.inventory_digest(worker) == ""
    store.set_inventory(worker, EMPTY)
    assert workers(store) == ["gpu-1"]


def test_sqlite_forgets_inventories_when_it_is_closed(reopen):
    store = reopen()
    worker = connect(store)
    store.set_inventory(worker, EMPTY)
    store = reopen()
    connect(store)
    assert (store.inventory_digest(worker), store.inventories()) == ("", [])


@pytest.mark.parametrize("loaded", [[b"[1]", b"[]", b"[1]"], [b"[]", b"[1]", b"[]"]])
def test_processes_that_share_a_redis_see_what_was_reported_last(new_process, loaded):
    one, other = new_process(), new_process()
    worker = connect(one)
    one.set_inventory(worker, EMPTY)
    for store, report in zip((one, other, one), loaded):
        store.set_loaded(worker, report)
    assert other.inventories() == [("gpu-1", EMPTY, loaded[-1])]
    assert other.inventory_digest(worker) == "empty"
