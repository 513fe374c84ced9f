"""A relayed request in the server's main loop: it pauses wherever it would wait."""
from __future__ import annotations

import contextlib
from typing import Any, Iterator, List

import pytest

from manage.errors import Disconnected, Stopping, TaskCancelled
from manage.gateway.answer import PAUSE, RelayedAnswer
from manage.gateway.follow import Follower
from manage.gateway.peek import Call
from manage.gateway.protocols import PROTOCOLS
from manage.parse.heads import Head
from taskstore import ANSWER, HEAD, Cursor, MemoryStore, Outcome, Piece, Update
from tests.support.relayed import extended_claim, submit_relayed

PROTOCOL = PROTOCOLS["/api/chat"]
LINE = '{"message":{"content":"Hi"}}\n'
END = '{"done":true}\n'
HEAD_TEXT = Head(200, PROTOCOL.stream_type).text()


class Client:
    """A client of a relayed task whose answer pauses."""

    def __init__(self, is_stream: bool = True) -> None:
        self.store = MemoryStore()
        self.task_id = submit_relayed(self.store).task_id
        self.is_disconnected = False
        follower = Follower(self._read, lambda: self.is_disconnected,
                            lambda: self.store.is_stopping)
        answer = RelayedAnswer(follower, PROTOCOL, Call("llama3", is_stream, ""))
        answer.may_pause = True
        self.parts = self._parts(answer)
        self.whole: List[Any] = []
        self._offset = 0

    def _read(self, cursor: Cursor, wait_seconds: float) -> Update:
        assert wait_seconds == 0
        return self.store.read(self.task_id, cursor, wait_seconds)

    def _parts(self, answer: RelayedAnswer) -> Iterator[bytes]:
        begun = yield from answer.begin()
        if isinstance(begun.body, bytes):
            self.whole.append(begun)
        else:
            yield from begun.body

    def append(self, kind: str, text: str) -> None:
        self.store.append(self.task_id, self.lease_id, self._offset, [Piece(kind, text)])
        self._offset += len(text)

    def begin(self) -> None:
        task = extended_claim(self.store)
        assert task is not None
        self.lease_id = task.lease_id
        self.append(HEAD, HEAD_TEXT)


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    with contextlib.closing(client.store):
        yield client


def test_a_stream_pauses_until_it_begins_and_between_its_pieces(client: Client) -> None:
    assert [next(client.parts) for _ in range(3)] == [PAUSE] * 3
    client.begin()
    assert next(client.parts) == PAUSE
    client.append(ANSWER, LINE[:5])
    assert next(client.parts) == PAUSE
    client.append(ANSWER, LINE[5:])
    assert next(client.parts) == LINE.encode()
    # It does not look again before it is told that there may be more.
    client.append(ANSWER, END)
    assert next(client.parts) == PAUSE
    assert next(client.parts) == END.encode()
    client.store.finish(client.task_id, Outcome(result=""), client.lease_id)
    # Whatever else is empty would be a pause that nobody ends.
    assert list(client.parts) == [PAUSE]


def test_a_whole_answer_pauses_until_it_is_there() -> None:
    client = Client(is_stream=False)
    with contextlib.closing(client.store):
        assert next(client.parts) == PAUSE
        client.begin()
        client.append(ANSWER, END)
        assert next(client.parts) == PAUSE
        client.store.finish(client.task_id, Outcome(result=""), client.lease_id)
        assert list(client.parts) == []
        [whole] = client.whole
        assert (whole.status, whole.body) == (200, END.encode())


@pytest.mark.parametrize("begins", [False, True])
def test_a_client_that_hangs_up_in_a_pause_ends_it(client: Client, begins: bool) -> None:
    assert next(client.parts) == PAUSE
    if begins:
        client.begin()
        client.append(ANSWER, LINE)
        assert next(client.parts) == LINE.encode()
        assert next(client.parts) == PAUSE
    client.is_disconnected = True
    with contextlib.nullcontext() if begins else pytest.raises(Disconnected):
        assert b"".join(client.parts) == b""


def test_a_store_that_stops_ends_a_pause(client: Client) -> None:
    assert next(client.parts) == PAUSE
    client.store.stop_waiting()
    with pytest.raises(Stopping):
        next(client.parts)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_store_that_stops_when_there_is_news_lets_nobody_pause_again(is_stream: bool) -> None:
    """The server ends, so that nothing would ever have it go on."""
    client = Client(is_stream)
    with contextlib.closing(client.store):
        assert next(client.parts) == PAUSE
        client.begin()
        client.store.stop_waiting()
        with pytest.raises(Stopping):
            next(client.parts)


def test_a_stream_whose_store_stops_when_there_is_a_piece_ends_with_an_error(
    client: Client
) -> None:
    assert next(client.parts) == PAUSE
    client.begin()
    client.append(ANSWER, LINE)
    client.store.stop_waiting()
    line, error = client.parts
    assert line == LINE.encode()
    assert b"restarting" in error


def test_a_task_that_is_cancelled_ends_a_pause(client: Client) -> None:
    assert next(client.parts) == PAUSE
    client.store.cancel(client.task_id)
    with pytest.raises(TaskCancelled):
        next(client.parts)


def test_a_stream_whose_end_comes_after_its_last_event_does_not_pause_any_more(
    client: Client
) -> None:
    client.begin()
    client.append(ANSWER, LINE + END)
    assert [next(client.parts) for _ in range(2)] == [(LINE + END).encode(), PAUSE]
    client.store.finish(client.task_id, Outcome(result=""), client.lease_id)
    # Nobody would resume it.
    assert list(client.parts) == []


def test_a_stream_does_not_pause_once_the_server_is_stopping(client: Client) -> None:
    client.begin()
    client.append(ANSWER, LINE)
    assert [next(client.parts) for _ in range(2)] == [LINE.encode(), PAUSE]
    client.append(ANSWER, END)
    client.store.stop_waiting()
    last, error = client.parts
    assert last == END.encode() and b"restarting" in error
