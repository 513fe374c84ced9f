"""A thread that waits for news is woken by what may be news, and not by each answer."""
from __future__ import annotations

from typing import List, Optional

import pytest

from transport import clock
from worker.protocol.exchange import Exchange, ExchangeAnswer, Given, Outcome
from worker.protocol.task import Lease, Task
from worker.stock.dispatch import Dispatch
from worker.stock.exchanger import Exchanger


def given(task_id: int, begin_within: Optional[float] = None) -> Given:
    lease = Lease(task_id, f"lease-{task_id}", 30.0)
    return Given(Task(lease, {"model": "llama3", "prompt": "Hi"}, 1, 1000), begin_within)


class State:
    """The state of a worker with an idle slot, while the server holds a request."""

    def __init__(self) -> None:
        self.exchanger = Exchanger(1)
        self.exchanger.set_ollama_up(True)
        self.exchanger.stock.idle = 1
        self.dispatch = Dispatch(self.exchanger)
        self.dispatch.settle(Exchange(), ExchangeAnswer(), clock.now(), ())
        hold = self.dispatch.next_hold(25.0)
        assert hold
        self.hold = hold
        self.wakes = 0

    def count(self) -> None:
        self.wakes += 1

    def answer_hold(self, *tasks: Given) -> None:
        self.dispatch.settle(self.hold, ExchangeAnswer(given=tasks), clock.now(), ())
        self.dispatch.end_hold(clock.now(), 0.0)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    state = State()
    monkeypatch.setattr(state.exchanger.changed, "notify_all", state.count)
    return state


def test_nobody_is_woken_by_a_task_that_begins_as_the_server_knows(state: State) -> None:
    state.answer_hold(given(1))
    state.exchanger.stock.idle = 0
    assert state.exchanger.take() == given(1).task
    assert state.wakes == 0


def test_a_task_in_hand_wakes_whoever_gives_it_back_when_it_is_late(state: State) -> None:
    state.answer_hold(given(1, begin_within=10.0))
    assert state.wakes > 0


def test_a_task_in_hand_that_begins_is_news(state: State) -> None:
    state.answer_hold(given(1, begin_within=10.0))
    state.wakes = 0
    assert state.exchanger.take() == given(1).task
    assert state.wakes > 0


def test_a_task_that_has_come_in_vain_is_news(state: State) -> None:
    state.exchanger.stock.idle = 0
    state.answer_hold(given(1))
    assert state.wakes > 0
    news = state.dispatch.next_news()
    assert news and [outcome.lease.task_id for outcome in news.outcomes] == [1]


def test_a_slot_that_finds_no_task_wakes_whoever_asks_for_one(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.dispatch.end_hold(clock.now(), 0.0)
    state.wakes = 0

    def stop() -> None:
        state.exchanger.is_stopping = True

    monkeypatch.setattr(state.exchanger._has_task, "wait", stop)
    assert state.exchanger.take() is None
    assert state.wakes > 0


def test_an_outcome_to_deliver_once_more_is_news(state: State) -> None:
    outcome = Outcome(given(1).task.lease, b"{}")
    state.exchanger.post(outcome.lease, outcome)
    news = state.dispatch.next_news()
    assert news and news.outcomes == [outcome]
    state.wakes = 0
    state.dispatch.settle(news, ExchangeAnswer(), clock.now(), news.outcomes)
    assert state.wakes > 0


def test_a_request_that_has_failed_wakes_whoever_waits(state: State) -> None:
    state.dispatch.end_hold(clock.now(), 0.0, is_answered=False)
    assert state.wakes > 0


def test_a_worker_that_stops_is_told_when_the_server_holds_nothing(state: State) -> None:
    state.exchanger.begin_stop()
    state.wakes = 0
    state.answer_hold()
    assert state.wakes > 0


def test_a_server_that_turns_out_to_know_exchanges_wakes_whoever_waits(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanger = Exchanger(1)
    exchanger.set_ollama_up(True)
    dispatch = Dispatch(exchanger)
    hold = dispatch.next_hold(25.0)
    assert hold
    wakes: List[bool] = []
    monkeypatch.setattr(exchanger.changed, "notify_all", lambda: wakes.append(True))
    dispatch.settle(hold, ExchangeAnswer(), clock.now(), ())
    assert wakes and exchanger.renews
