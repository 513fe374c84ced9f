"""Who may hold how many requests open."""
from __future__ import annotations

import contextlib

import pytest

from manage.serving.connections import HeldRequests


class Holding:
    """Requests that stay held until the end of the test."""

    def __init__(self, max_held):
        self.held_requests = HeldRequests(max_held)
        self._stack = contextlib.ExitStack()

    def hold(self, caller, count=1, is_worker=False, places=1):
        """How many of `count` further requests are held; the others leave again."""
        held = 0
        for _ in range(count):
            request = self.held_requests.hold(25.0, caller, is_worker, places)
            if request.__enter__():
                self._stack.push(request)
                held += 1
            else:
                request.__exit__(None, None, None)
        return held

    def release(self):
        self._stack.close()


@pytest.fixture
def with_48_places():
    """What a server with 64 threads has."""
    holding = Holding(48)
    yield holding
    holding.release()


def test_a_claim_with_many_models_takes_several_places_but_at_most_a_quarter(with_48_places):
    assert with_48_places.hold("", 60, is_worker=True, places=10) == 4
    assert with_48_places.hold("", 60, is_worker=True, places=1) == 8
    with_48_places.release()
    assert with_48_places.hold("", 60, is_worker=True, places=1000) == 4


def test_one_user_alone_holds_half_of_the_places_of_users(with_48_places):
    assert with_48_places.hold("bob", 60) == 18


def test_sixty_requests_of_one_user_leave_room_for_another_and_for_many_workers(with_48_places):
    with_48_places.hold("bob", 60)
    assert with_48_places.hold("alice", 5) == 5
    assert with_48_places.hold("gpu", 20, is_worker=True) == 20


def test_however_many_users_are_greedy_there_is_a_place_for_another(with_48_places):
    greedy = [with_48_places.hold(f"user {number}", 60) for number in range(3)]
    assert min(greedy) >= 4
    assert with_48_places.hold("alice") == 1


def test_a_quarter_of_the_places_is_for_workers_alone(with_48_places):
    users = sum(with_48_places.hold(f"user {number}", 60) for number in range(100))
    assert users <= 36
    assert with_48_places.hold("gpu", 10, is_worker=True) == 10


def test_the_workers_of_one_token_may_use_most_places_but_leave_some(with_48_places):
    assert with_48_places.hold("gpu", 100, is_worker=True) == 43
    assert with_48_places.hold("other", 2, is_worker=True) == 2
    assert with_48_places.hold("alice", 2) == 2


def test_nothing_is_divided_between_callers_without_names(with_48_places):
    assert with_48_places.hold("", 60) == 36
    assert with_48_places.hold("", 60, is_worker=True) == 12


def test_a_place_that_is_left_is_free_again_and_its_caller_forgotten(with_48_places):
    for number in range(1000):
        with with_48_places.held_requests.hold(25.0, f"user {number}") as wait:
            assert wait == 25.0
    assert not with_48_places.held_requests._user_held
    assert with_48_places.hold("bob", 60) == 18
    with with_48_places.held_requests.hold(25.0, "bob") as wait:
        assert wait == 0
    with_48_places.release()
    assert with_48_places.hold("bob", 60) == 18


def test_a_refused_caller_is_not_remembered():
    full = Holding(1)
    full.hold("gpu", is_worker=True)
    assert [full.hold("bob"), full.hold("other", is_worker=True)] == [0, 0]
    assert not full.held_requests._user_held and len(full.held_requests._worker_held) == 1
    full.release()


def test_a_request_that_does_not_wait_takes_no_place():
    holding = HeldRequests(3)
    with holding.hold(0.0, "bob") as wait:
        assert wait == 0
        assert not holding._user_held


def test_the_smallest_server_holds_a_request_of_a_user_and_of_a_worker():
    smallest = Holding(3)
    assert smallest.hold("bob", 9) == 1
    assert smallest.hold("alice", 9) == 1
    assert smallest.hold("gpu", 9, is_worker=True) == 1
    smallest.release()
