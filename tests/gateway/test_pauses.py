"""When a relayed stream pauses, and when it must not."""
from __future__ import annotations

from typing import Any, Iterator, List

import pytest

from manage.gateway.answer import PAUSE, RelayedAnswer
from manage.gateway.follow import Follower
from manage.gateway.peek import Call
from manage.gateway.protocols import PROTOCOLS
from manage.parse.heads import Head
from taskstore import ANSWER, HEAD, MemoryStore, Outcome, Piece, Task
from tests.support.relayed import extended_claim, submit_relayed

FIRST, LAST = '{"message":{"content":"So"}}\n', '{"done":true}\n'


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = MemoryStore()
    yield store
    store.close()


class Relayed:
    """A stream whose first piece has come."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        task_id = submit_relayed(store).task_id
        task = extended_claim(store)
        assert task is not None
        self._task: Task = task
        self._length = 0
        self._append(Piece(HEAD, Head(200, "application/x-ndjson").text()))
        self.append(FIRST)
        follower = Follower(lambda cursor, seconds: store.read(task_id, cursor, seconds),
                            lambda: False, lambda: store.is_stopping)
        relayed = RelayedAnswer(follower, PROTOCOLS["/api/chat"], Call("llama3", is_stream=True))
        self.parts: Any = relayed.begin().body
        relayed.may_pause = True

    def append(self, text: str) -> None:
        self._append(Piece(ANSWER, text))

    def _append(self, piece: Piece) -> None:
        self._length += len(piece.text)
        self._store.append(self._task.task_id, self._task.lease_id,
                           self._length - len(piece.text), [piece])

    def complete(self) -> None:
        self._store.finish(self._task.task_id, Outcome(result=""), self._task.lease_id)


def test_a_stream_pauses_until_there_is_news(store: MemoryStore) -> None:
    relayed = Relayed(store)
    assert next(relayed.parts) == FIRST.encode()
    assert next(relayed.parts) == next(relayed.parts) == PAUSE
    relayed.append(LAST)
    assert next(relayed.parts) == LAST.encode()
    assert next(relayed.parts) == PAUSE


def test_a_stream_whose_end_comes_after_its_last_event_does_not_pause_any_more(
    store: MemoryStore
) -> None:
    relayed = Relayed(store)
    relayed.append(LAST)
    assert [next(relayed.parts) for _ in range(3)] == [FIRST.encode(), PAUSE, LAST.encode()]
    assert next(relayed.parts) == PAUSE
    relayed.complete()
    # Nobody would resume it.
    assert list(relayed.parts) == []


def test_a_stream_does_not_pause_once_the_server_is_stopping(store: MemoryStore) -> None:
    relayed = Relayed(store)
    assert [next(relayed.parts) for _ in range(2)] == [FIRST.encode(), PAUSE]
    relayed.append(LAST)
    store.stop_waiting()
    rest: List[bytes] = list(relayed.parts)
    assert rest[0] == LAST.encode() and b"restarting" in rest[1] and len(rest) == 2
