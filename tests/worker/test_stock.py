"""What a worker has, when its requests are due, and how many tasks it has in advance."""
from __future__ import annotations

import json
import math
from typing import Any, List, Optional, Sequence

import pytest

from worker.protocol.exchange import (
    MAX_OUTCOME_BYTES,
    MAX_OUTCOMES,
    Exchange,
    ExchangeAnswer,
    Given,
    Outcome,
)
from worker.protocol.task import Lease, Task
from worker.stock.depth import MAX_TASKS_PER_SLOT, Depth
from worker.stock.schedule import (
    BEGIN_DELAY_SECONDS,
    LONG_TRIP_SECONDS,
    MAX_NEWS_UNDER_WAY,
    MIN_HOLD_INTERVAL_SECONDS,
    MIN_NEWS_INTERVAL_SECONDS,
    Schedule,
)
from worker.stock.stock import MAX_UNDELIVERED, Stock

TEN = 10.0


def task(task_id: int, lease_id: str = "") -> Task:
    lease = Lease(task_id, lease_id or f"lease-{task_id}", 30.0)
    return Task(lease, {"model": "llama3", "prompt": "Hi"}, 1, 1000)


def given(task_id: int, begin_within: Optional[float] = None, lease_id: str = "") -> Given:
    return Given(task(task_id, lease_id), begin_within)


def receive(stock: Stock, *tasks: Given, sent_at: float = 0.0, now: float = 0.0) -> None:
    stock.apply(Exchange(), ExchangeAnswer(given=tasks), sent_at, now)


def tell_lost(stock: Stock, exchange: Exchange, *task_ids: int) -> List[int]:
    answer = ExchangeAnswer(lost=frozenset(task_ids))
    return [running.lease.task_id for running in stock.apply(exchange, answer, 0.0, 0.0)]


def outcome(task_id: int, size: int = 1) -> Outcome:
    return Outcome(Lease(task_id, f"lease-{task_id}", 30.0), b"a" * size)


def take_id(stock: Stock, now: float = 0.0) -> Optional[int]:
    taken = stock.take(now)
    return taken.lease.task_id if taken else None


def outcomes_of(stock: Stock) -> List[Any]:
    return [json.loads(one.data) for one in stock.news(0.0, MAX_OUTCOMES).outcomes]


@pytest.fixture
def stock() -> Stock:
    stock = Stock()
    stock.idle = 1
    return stock


def test_a_claimed_task_goes_before_a_prefetched_one_and_those_in_their_order(stock: Stock) -> None:
    receive(stock, given(1, TEN), given(2, TEN), given(3))
    assert [take_id(stock) for _ in range(4)] == [3, 1, 2, None]


def test_a_prefetched_task_may_begin_within_its_time_after_its_request_was_sent(
    stock: Stock
) -> None:
    receive(stock, given(1, TEN), sent_at=5.0, now=14.0)
    assert take_id(stock, 14.9) == 1
    receive(stock, given(2, TEN), sent_at=5.0, now=15.0)
    assert take_id(stock, 15.0) is None
    receive(stock, given(3, TEN), sent_at=20.0, now=20.0)
    assert stock.late_at == 30.0
    assert stock.state(30.0).prefetched == [] and take_id(stock, 30.0) is None
    assert [one["task_id"] for one in outcomes_of(stock)] == [2, 3]


def test_a_worker_whose_tasks_take_long_has_none_in_advance_until_one_ends(stock: Stock) -> None:
    receive(stock, given(1), given(2, TEN))
    running = stock.take(0.0)
    assert running and not stock.is_blocked
    stock.give_back_late(TEN)
    assert stock.is_blocked
    stock.end(task(9).lease)
    assert stock.is_blocked
    stock.end(running.lease)
    assert not stock.is_blocked


def test_what_is_lost_is_lost_under_the_lease_that_was_stated_alone(stock: Stock) -> None:
    receive(stock, given(1, TEN, "old"), given(2, TEN))
    stated = stock.state(0.0)
    assert take_id(stock, TEN + 1) is None
    receive(stock, given(1, TEN, "new"))
    assert tell_lost(stock, stated, 1, 2) == []
    assert take_id(stock) == 1
    assert tell_lost(stock, stated, 1) == []
    assert tell_lost(stock, stock.state(0.0), 1) == [1]


def test_a_running_task_is_lost_once_and_stated_no_more(stock: Stock) -> None:
    receive(stock, given(1), given(2, TEN))
    take_id(stock)
    stated = stock.state(0.0)
    assert tell_lost(stock, stated, 1) == [1]
    assert tell_lost(stock, stated, 1) == []
    assert stock.state(0.0).running == []


def test_a_task_that_is_lost_before_a_slot_has_it_is_not_run(stock: Stock) -> None:
    receive(stock, given(1))
    assert tell_lost(stock, stock.state(0.0), 1) == []
    assert take_id(stock) is None and stock.wanted(0.0) == 1


def test_a_lost_task_that_has_ended_meanwhile_is_nothing_new(stock: Stock) -> None:
    receive(stock, given(1))
    take_id(stock)
    stated = stock.state(0.0)
    stock.end(stated.running[0])
    assert tell_lost(stock, stated, 1) == []


def test_a_begin_is_news_until_an_answer_comes_to_an_exchange_that_states_it(stock: Stock) -> None:
    receive(stock, given(1, TEN))
    before = stock.state(0.0)
    take_id(stock)
    assert stock.has_begun
    tell_lost(stock, before)
    assert stock.has_begun
    tell_lost(stock, stock.state(0.0))
    assert not stock.has_begun


def test_a_claimed_task_has_begun_for_the_server(stock: Stock) -> None:
    receive(stock, given(1))
    take_id(stock)
    assert not stock.has_begun


@pytest.mark.parametrize("begin_within", [None, TEN])
def test_a_closed_stock_gives_back_what_has_not_begun_and_what_comes(
    stock: Stock, begin_within: Optional[float]
) -> None:
    receive(stock, given(1, begin_within))
    stock.close()
    receive(stock, given(2, begin_within))
    assert outcomes_of(stock) == [
        {"task_id": task_id, "lease_id": f"lease-{task_id}", "release": True}
        for task_id in (1, 2)]
    assert take_id(stock) is None and stock.wanted(0.0) == 0


def test_of_more_claimed_tasks_than_idle_slots_the_rest_is_given_back(stock: Stock) -> None:
    receive(stock, given(1), given(2))
    assert [one["task_id"] for one in outcomes_of(stock)] == [2]


def test_slots_lack_no_more_tasks_than_they_are_and_have_not(stock: Stock) -> None:
    stock.idle = 3
    assert stock.wanted(0.0) == 3
    receive(stock, given(1), given(2, TEN))
    assert (stock.wanted(0.0), stock.wanted(TEN)) == (1, 2)


def test_outcomes_of_a_failed_exchange_go_first_the_next_time_in_their_order(stock: Stock) -> None:
    for task_id in (1, 2, 3):
        stock.undelivered.add(outcome(task_id))
    exchange = stock.news(0.0, 2)
    assert not any(one.lease.task_id == 3 for one in exchange.outcomes)
    assert len(stock.undelivered) == 3
    stock.undelivered.add(outcome(4))
    stock.undelivered.settle(exchange.outcomes, exchange.outcomes)
    assert [one.lease.task_id for one in stock.news(0.0, 100).outcomes] == [1, 2, 3, 4]


def test_the_leases_of_tasks_whose_outcomes_wait_are_stated_where_that_is_asked_for(
    stock: Stock
) -> None:
    stock.undelivered.add(outcome(1))
    sent = stock.news(0.0, 1)
    stock.undelivered.add(outcome(2))
    receive(stock, given(3, 10.0))
    stock.close()  # What is given back is not to be kept.
    assert stock.state(0.0).running == []
    assert [lease.task_id for lease in stock.state(0.0, with_ended=True).running] == [1, 2]
    stock.undelivered.settle(sent.outcomes, ())
    assert [lease.task_id for lease in stock.state(0.0, with_ended=True).running] == [2]


def test_one_exchange_has_a_bounded_number_and_size_of_outcomes(stock: Stock) -> None:
    for task_id in range(2 * MAX_OUTCOMES):
        stock.undelivered.add(outcome(task_id))
    assert len(stock.news(0.0, 1000).outcomes) == MAX_OUTCOMES
    stock = Stock()
    for task_id in range(2 * MAX_OUTCOMES):
        stock.undelivered.add(outcome(task_id, MAX_OUTCOME_BYTES))
    assert len(stock.news(0.0, 1000).outcomes) == 16


def test_while_too_many_outcomes_wait_no_task_begins(stock: Stock) -> None:
    receive(stock, given(1, TEN))
    for task_id in range(MAX_UNDELIVERED):
        stock.undelivered.add(outcome(task_id))
    sent = stock.news(0.0, MAX_OUTCOMES)
    assert take_id(stock) is None and stock.wanted(0.0) == 0
    stock.undelivered.settle(sent.outcomes, ())
    assert take_id(stock) == 1


@pytest.mark.parametrize(("slots", "task_seconds", "trip_seconds", "expected"), [
    (1, 1.0, 0.05, 1), (4, 1.0, 0.05, 4), (1, 0.2, 0.2, 2), (4, 0.2, 0.2, 10), (1, 0.01, 0.05, 8),
    (4, 0.005, 0.2, 4 * MAX_TASKS_PER_SLOT), (1, 0.0, 0.2, MAX_TASKS_PER_SLOT), (0, 0.1, 0.1, 0),
])
def test_a_slot_has_one_task_in_advance_and_more_only_of_short_ones(
    slots: int, task_seconds: float, trip_seconds: float, expected: int
) -> None:
    depth = Depth()
    assert depth.tasks(slots) == slots
    for _ in range(30):
        depth.add_task(task_seconds)
        depth.add_trip(trip_seconds)
    assert depth.tasks(slots) == expected


class FakeStock:
    has_outcomes = has_begun = False


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(FakeStock())  # type: ignore[arg-type]


def test_outcomes_are_news_at_once_and_a_begin_a_moment_later(schedule: Schedule) -> None:
    stock: Any = schedule._stock
    nothing = Exchange()
    assert schedule.news_due_at(1.0, nothing) == math.inf
    stock.has_begun = True
    assert schedule.news_due_at(1.0, nothing) == 1.0 + BEGIN_DELAY_SECONDS
    assert schedule.news_due_at(1.001, nothing) == 1.0 + BEGIN_DELAY_SECONDS
    stock.has_outcomes = True
    assert schedule.news_due_at(1.002, nothing) == 1.002


@pytest.mark.parametrize(("held", "wanted", "is_news"), [
    (Exchange(idle=1, prefetch=1), Exchange(idle=1, prefetch=1), False),
    (Exchange(idle=0, prefetch=1), Exchange(idle=1, prefetch=1), True),
    (Exchange(idle=1, prefetch=1), Exchange(idle=0, prefetch=1), False),
    (Exchange(idle=0, prefetch=0), Exchange(idle=0, prefetch=1), True),
    (Exchange(idle=0, prefetch=4), Exchange(idle=0, prefetch=5), False),
    (Exchange(idle=0, prefetch=1), Exchange(), True),
    (Exchange(), Exchange(), False),
])
def test_a_request_that_is_held_in_vain_is_news(
    schedule: Schedule, held: Exchange, wanted: Exchange, is_news: bool
) -> None:
    schedule.begin_hold(held)
    assert (schedule.news_due_at(1.0, wanted) == 1.0) is is_news
    schedule.begin_news(1.0)
    assert schedule.news_due_at(1.0, wanted) == math.inf
    schedule.answer_news()
    assert schedule.news_due_at(1.0, wanted) == math.inf


def test_news_that_has_failed_has_not_ended_the_held_request(schedule: Schedule) -> None:
    schedule.begin_news(0.0)
    schedule.begin_hold(Exchange(idle=0))
    schedule.begin_news(1.0)
    schedule.fail_news()
    assert schedule.news_due_at(2.0, Exchange(idle=1)) == 2.0


def test_far_away_news_does_not_wait_for_the_answer_to_other_news(schedule: Schedule) -> None:
    assert schedule.may_tell_at(LONG_TRIP_SECONDS) == -math.inf
    for now in range(MAX_NEWS_UNDER_WAY):
        schedule.begin_news(now)
        may_tell_at = schedule.may_tell_at(LONG_TRIP_SECONDS)
        assert may_tell_at == (now + MIN_NEWS_INTERVAL_SECONDS
                               if now < MAX_NEWS_UNDER_WAY - 1 else math.inf)
    schedule.answer_news()
    schedule.end_news()
    last = MAX_NEWS_UNDER_WAY - 1
    assert schedule.may_tell_at(LONG_TRIP_SECONDS) == last + MIN_NEWS_INTERVAL_SECONDS
    assert schedule.may_tell_at(2.0) == last + 2.0 / MAX_NEWS_UNDER_WAY


def test_nearby_news_goes_together_once_the_last_is_answered(schedule: Schedule) -> None:
    schedule.begin_news(0.0)
    assert schedule.may_tell_at(0.9 * LONG_TRIP_SECONDS) == math.inf
    schedule.answer_news()
    schedule.end_news()
    assert schedule.may_tell_at(0.9 * LONG_TRIP_SECONDS) == -math.inf


def test_after_news_that_has_failed_no_other_is_under_way_beside_the_next(
    schedule: Schedule
) -> None:
    schedule.begin_news(0.0)
    schedule.fail_news()
    assert schedule.may_tell_at(0.05) == math.inf  # It is waited before the next try.
    schedule.end_news()
    assert schedule.may_tell_at(0.05) == -math.inf
    schedule.begin_news(1.0)
    assert schedule.may_tell_at(0.05) == math.inf
    schedule.answer_news()
    assert schedule.may_tell_at(0.05) == 1.0 + MIN_NEWS_INTERVAL_SECONDS


def hold_at(schedule: Schedule, events: Sequence[str]) -> float:
    """Return when the next request may be held after one that was answered at once."""
    steps = {"begin": lambda: schedule.begin_news(0.0), "end": schedule.answer_news,
             "hold": lambda: schedule.begin_hold(Exchange(idle=1))}
    for event in events:
        steps[event]()
    schedule.end_hold(now=7.0, sent_at=6.99, pause_seconds=2.0)
    return schedule.hold_at


@pytest.mark.parametrize("events", [
    ("hold", "begin"), ("hold", "begin", "end"), ("begin", "hold"), ("begin", "hold", "end"),
])
def test_a_request_that_news_has_ended_is_followed_by_the_next_after_a_moment(
    schedule: Schedule, events: Sequence[str]
) -> None:
    assert hold_at(schedule, events) == 6.99 + MIN_HOLD_INTERVAL_SECONDS


@pytest.mark.parametrize("events", [("hold",), ("begin", "end", "hold")])
def test_a_request_that_was_answered_at_once_for_no_reason_is_followed_after_a_pause(
    schedule: Schedule, events: Sequence[str]
) -> None:
    assert hold_at(schedule, events) == 9.0


def test_news_says_what_has_begun_and_not_what_the_server_knows(stock: Stock) -> None:
    receive(stock, given(1, 10.0), given(2, 10.0))
    take_id(stock)
    first = stock.news(0.0, 1)
    assert [lease.task_id for lease in first.running] == [1]
    take_id(stock)
    second = stock.news(0.0, 1)
    assert [lease.task_id for lease in second.running] == [2]
    assert not stock.has_begun
    stock.untell(second)
    assert [lease.task_id for lease in stock.news(0.0, 1).running] == [2]
    assert [lease.task_id for lease in stock.state(0.0).running] == [1, 2]


def test_news_ends_a_held_request_that_was_sent_before_there_was_doubt() -> None:
    schedule = Schedule(Stock())
    schedule.begin_hold(Exchange())
    assert schedule.news_due_at(1.0, Exchange()) == math.inf
    schedule.is_in_doubt = True
    assert schedule.news_due_at(1.0, Exchange()) == 1.0
    schedule.begin_news(1.0)
    assert schedule.news_due_at(1.0, Exchange()) == math.inf


def test_a_held_request_is_not_ended_when_the_next_could_not_clear_up_the_doubt_either() -> None:
    schedule = Schedule(Stock())
    schedule.is_in_doubt = True
    schedule.begin_hold(Exchange(), puts_off_doubt=True)
    assert schedule.news_due_at(1.0, Exchange()) == math.inf
