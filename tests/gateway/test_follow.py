"""Whether the client is still there, while the news of its task come in."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Iterator, List

import pytest

from manage.errors import Disconnected
from manage.gateway.follow import Follower
from taskstore import Cursor, MemoryStore
from tests.support.relayed import submit_relayed


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = MemoryStore()
    yield store
    store.close()


def follow(store: MemoryStore, checks: List[bool], is_disconnected: bool = False) -> Follower:
    """A follower that has had the first news; what it asks about its client is in `checks`."""
    task_id = submit_relayed(store).task_id

    def check() -> bool:
        checks.append(is_disconnected)
        return is_disconnected

    return Follower(lambda cursor, seconds: store.read(task_id, cursor, seconds), check,
                    lambda: store.is_stopping)


def test_a_client_that_gets_news_is_not_looked_for_at_each_piece(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: List[bool] = []
    follower = follow(store, checks)
    moments: Any = iter(range(100))
    # In place of the module, since other threads ask for the time, too.
    clock = SimpleNamespace(monotonic=lambda: next(moments) / 100)
    monkeypatch.setattr("manage.gateway.follow.time", clock)
    for _ in range(20):
        follower._cursor = Cursor()
        assert follower.next(0.0) is not None
    assert len(checks) == 1


def test_a_client_that_has_left_is_noticed_when_there_is_no_news(store: MemoryStore) -> None:
    checks: List[bool] = []
    follower = follow(store, checks)
    follower.next(0.0)
    follower.next(0.0)
    assert len(checks) == 2
    with pytest.raises(Disconnected):
        follow(store, checks, is_disconnected=True).next(0.0)
