"""The budget of memory that large requests share, and what a held claim takes."""
from __future__ import annotations

import contextlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

import config
from manage.parse import body, memory_budget, workers
from manage.parse.body import BodyReader
from manage.parse.memory_budget import MemoryBudget, OutOfMemoryBudget
from manage.serving.connections import IN_MAIN_LOOP
from taskstore import MemoryStore
from tests.support.relayed import extended_claim
from tests.support.routes import claim, deliver, make_client, refusal, submit

SOON_SECONDS = 0.01
GUARD_SECONDS = 60.0


@contextlib.contextmanager
def hold(budget, size_bytes, wait_seconds=0.0):
    share_bytes = budget.take(size_bytes, wait_seconds)
    try:
        yield
    finally:
        budget.give_back(share_bytes)


def has_room(budget, size_bytes):
    with contextlib.suppress(OutOfMemoryBudget), hold(budget, size_bytes):
        return True
    return False


def test_shares_are_granted_as_long_as_they_fit():
    budget = MemoryBudget(10)
    with hold(budget, 6):
        assert has_room(budget, 4) and not has_room(budget, 5)
    assert has_room(budget, 10)


def test_what_wants_more_than_there_is_gets_all():
    budget = MemoryBudget(10)
    with hold(budget, 11):
        assert not has_room(budget, 1)


def test_a_large_share_gets_its_turn_before_small_ones_that_came_later(monkeypatch):
    budget, order, asking = MemoryBudget(10), [], threading.Semaphore(0)

    class Event(threading.Event):
        def wait(self, timeout=None):
            asking.release()
            return super().wait(timeout)

    def take(size_bytes):
        with hold(budget, size_bytes, GUARD_SECONDS):
            order.append(size_bytes)

    with ThreadPoolExecutor(2) as pool:
        with hold(budget, 5):
            monkeypatch.setattr(memory_budget, "threading", SimpleNamespace(Event=Event))
            large = pool.submit(take, 9)
            assert asking.acquire(timeout=GUARD_SECONDS)
            small = pool.submit(take, 2)
            assert asking.acquire(timeout=GUARD_SECONDS)
        large.result(GUARD_SECONDS)
        small.result(GUARD_SECONDS)
    assert order == [9, 2]


def test_who_gives_up_lets_those_behind_pass():
    budget = MemoryBudget(10)
    with hold(budget, 5):
        with pytest.raises(OutOfMemoryBudget), hold(budget, 9, SOON_SECONDS):
            pass
        assert has_room(budget, 5)


def test_a_share_is_free_again_after_any_error(clock):
    client = make_client(MemoryStore(clock=clock))
    for data in (b"{", b"[]", b'{"prompt": 1}', b'{"prompt": "' + b"x" * 100_000 + b'"'):
        for _ in range(3):
            refusal(client.post("/submit", data=data))
    submit(client, "x" * 1_000_000)


def test_a_large_request_without_room_is_503_and_small_ones_pass(clock, monkeypatch):
    monkeypatch.setattr(body, "MEMORY_WAIT_SECONDS", SOON_SECONDS)
    client = make_client(MemoryStore(clock=clock))
    submit(client)
    claim(client)

    class Full(MemoryBudget):
        def take(self, size_bytes, wait_seconds):
            if self.total_bytes > body.SMALL_BODIES_MEMORY_BYTES:
                raise OutOfMemoryBudget
            return super().take(size_bytes, wait_seconds)

    monkeypatch.setattr(body, "MemoryBudget", Full)
    client = make_client(MemoryStore(clock=clock))
    submit(client)
    claim(client)
    answer = client.post("/task", json={"task_id": 1, "result": "x" * 20_000})
    assert answer.headers["Retry-After"] == "10"
    assert refusal(answer, 503) == (
        "The server is busy with other large requests: send this one again.")
    assert deliver(client, result="4") == 200


class Stream(io.BytesIO):
    """A body that arrives while it is read."""

    def seekable(self):
        return False


@pytest.mark.parametrize("stream", [io.BytesIO, Stream])
def test_a_small_part_of_an_answer_needs_no_memory_from_the_budget(monkeypatch, stream):
    class Full(MemoryBudget):
        def take(self, size_bytes, wait_seconds):
            raise OutOfMemoryBudget

    monkeypatch.setattr(body, "MemoryBudget", Full)
    bodies = BodyReader(1, 1)
    small = b"x" * body.SMALL_BODY_BYTES
    with bodies.part(stream(small)) as part:
        assert part == small
    with pytest.raises(OutOfMemoryBudget), bodies.part(stream(small + b"x")):
        pass
    with pytest.raises(OutOfMemoryBudget), bodies.claim(stream(b"{}")):
        pass


@pytest.mark.parametrize(("is_in_main_loop", "status"), [(False, 503), (True, 200)])
def test_a_relayed_request_in_the_main_loop_never_waits_for_memory(
    monkeypatch, is_in_main_loop, status
):
    """Nobody else would be answered meanwhile."""
    class Full(MemoryBudget):
        def take(self, size_bytes, wait_seconds):
            raise OutOfMemoryBudget

    monkeypatch.setattr("manage.gateway.answer.GRACE_SECONDS", 0.0)
    store = MemoryStore()
    with contextlib.closing(store):
        extended_claim(store)
        monkeypatch.setattr(body, "MemoryBudget", Full)
        with make_client(store).post(
            "/api/chat", json={"model": "llama3"},
            environ_overrides={IN_MAIN_LOOP: is_in_main_loop},
        ) as answer:
            assert answer.status_code == status


def test_a_body_that_cannot_be_read_gives_its_share_back(monkeypatch):
    budgets = []

    class Budget(MemoryBudget):
        def __init__(self, total_bytes):
            super().__init__(total_bytes)
            budgets.append(self)

    class Unreadable(io.BytesIO):
        def read(self, size=-1):
            raise OSError

    monkeypatch.setattr(body, "MemoryBudget", Budget)
    bodies = BodyReader(1, 1)
    with pytest.raises(OSError), bodies.claim(Unreadable(b"{}")):
        pass
    assert all(has_room(budget, budget.total_bytes) for budget in budgets)


@pytest.mark.parametrize(("models", "places"), [
    (None, 1), ([], 1), (["m" * 50] * 300, 1), ([f"model-{n}" for n in range(1000)], 1),
    ([f"model-{n}" for n in range(20_000)], 1),
    ([f"{n}" + "\u00fc" * 190 for n in range(2000)], 4),
])
def test_a_claim_takes_more_places_the_more_models_it_names(models, places):
    claim_request = workers.claim_body({"models": models}, config.Settings())
    assert claim_request.places == places
