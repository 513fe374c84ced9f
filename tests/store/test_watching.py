"""Watching a task: whoever waits without a thread is told that there may be news."""
from __future__ import annotations

from typing import List

import pytest

from taskstore import ANSWER, MemoryStore, Outcome, Piece
from tests.support.stores import claimed, submit


@pytest.fixture
def store():
    store = MemoryStore()
    yield store
    store.close()


def test_a_watcher_is_told_of_each_change_until_it_leaves(store: MemoryStore) -> None:
    told: List[str] = []
    task_id, other_id = submit(store), submit(store)
    with store.watch(task_id, lambda: told.append("changed")):
        lease_id = claimed(store).lease_id
        assert len(told) == 1
        store.append(task_id, lease_id, 0, [Piece(ANSWER, "a")])
        assert len(told) == 2
        store.cancel(other_id)
        assert len(told) == 2
        store.finish(task_id, Outcome(result="a"), lease_id)
        assert len(told) == 3
    store.erase(task_id)
    assert len(told) == 3


def test_all_watchers_are_told_and_each_leaves_alone(store: MemoryStore) -> None:
    told: List[str] = []
    task_id = submit(store)
    with store.watch(task_id, lambda: told.append("first")):
        with store.watch(task_id, lambda: told.append("second")):
            claimed(store)
            assert told == ["first", "second"]
        store.cancel(task_id)
        assert told == ["first", "second", "first"]


def test_a_watcher_is_told_when_the_store_stops(store: MemoryStore) -> None:
    told: List[str] = []
    with store.watch(submit(store), lambda: told.append("stops")):
        assert not store.is_stopping
        store.stop_waiting()
        assert told == ["stops"] and store.is_stopping
