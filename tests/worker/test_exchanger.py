"""What slots are told by the place where they get their tasks."""
from __future__ import annotations

from typing import List

import pytest

from transport import clock
from worker.protocol.exchange import Exchange, ExchangeAnswer, Given, Outcome
from worker.protocol.task import Lease, Task
from worker.stock.dispatch import Dispatch
from worker.stock.exchanger import Exchanger

LEASE = Lease(1, "lease-1", 30.0)
GIVEN = Given(Task(LEASE, {"model": "llama3", "prompt": "Hi"}, 1, 1000), 10.0)


def start(exchanger: Exchanger) -> Dispatch:
    """Let a task begin that came with an exchange."""
    dispatch = Dispatch(exchanger)
    exchanger.set_ollama_up(True)
    dispatch.settle(Exchange(), ExchangeAnswer(given=[GIVEN]), clock.now(), ())
    assert exchanger.take() is GIVEN.task
    return dispatch


def lose(dispatch: Dispatch) -> None:
    answer = ExchangeAnswer(lost=frozenset([1]))
    dispatch.settle(Exchange(running=[LEASE]), answer, clock.now(), ())


def test_a_task_that_is_lost_before_it_is_watched_is_lost_at_once() -> None:
    exchanger = Exchanger(1)
    lose(start(exchanger))
    lost: List[str] = []
    exchanger.watch(LEASE, lambda: lost.append("once"))
    assert lost == ["once"]


def test_a_task_that_is_watched_is_lost_once() -> None:
    exchanger = Exchanger(1)
    dispatch = start(exchanger)
    lost: List[str] = []
    exchanger.watch(LEASE, lambda: lost.append("once"))
    lose(dispatch)
    lose(dispatch)
    assert lost == ["once"]


def test_a_worker_is_busy_until_its_task_has_ended() -> None:
    exchanger = Exchanger(1)
    assert not exchanger.is_busy
    start(exchanger)
    assert exchanger.is_busy
    exchanger.end(LEASE)
    assert not exchanger.is_busy


def test_a_late_task_is_news_when_its_time_is_over() -> None:
    exchanger = Exchanger(1)
    dispatch = start(exchanger)
    late = Given(Task(Lease(2, "lease-2", 30.0), {"model": "llama3"}, 1, 1000), 0.05)
    dispatch.settle(Exchange(running=[LEASE]), ExchangeAnswer(given=[late]), clock.now(), ())
    news = dispatch.next_news()
    assert news and [outcome.lease.task_id for outcome in news.outcomes] == [2]
    assert (news.prefetch, news.prefetched) == (0, [])


def test_a_prefetched_task_that_ends_at_once_is_told_with_its_outcome_alone(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stock.schedule.BEGIN_DELAY_SECONDS", 1000)
    exchanger = Exchanger(1)
    dispatch = start(exchanger)
    exchanger.post(LEASE, Outcome(LEASE, b"{}"))
    news = dispatch.next_news()
    assert news and (len(news.outcomes), news.running) == (1, [])


def finish(exchanger: Exchanger) -> Dispatch:
    """Let a task end that had begun; return when its outcome is on its way."""
    dispatch = start(exchanger)
    exchanger.post(LEASE, Outcome(LEASE, b"{}"))
    news = dispatch.next_news()
    assert news and len(news.outcomes) == 1
    return dispatch


def answer(dispatch: Dispatch) -> None:
    """Have the news answered that is under way."""
    dispatch.answer_news(clock.now())
    dispatch.end_news()


def fail(dispatch: Dispatch) -> None:
    """Have the news fail that is under way."""
    dispatch.fail_news(Exchange())
    dispatch.end_news()


def running(dispatch: Dispatch) -> List[int]:
    """Return the tasks that the next request states as running, which the server then holds."""
    hold = dispatch.next_hold(25.0)
    assert hold
    return [lease.task_id for lease in hold.running]


def test_after_a_failure_the_lease_of_a_task_whose_outcome_waits_is_kept_once() -> None:
    dispatch = finish(Exchanger(1))
    assert running(dispatch) == []
    answer(dispatch)
    dispatch.end_hold(clock.now(), 0.0, is_answered=False)
    assert running(dispatch) == [1]
    dispatch.end_hold(clock.now(), 0.0)
    assert running(dispatch) == []


def test_after_news_has_failed_the_lease_of_its_task_is_kept() -> None:
    dispatch = finish(Exchanger(1))
    fail(dispatch)
    assert running(dispatch) == [1]


def only_these(dispatch: Dispatch) -> bool:
    """Return whether the next request, which the server holds, has it take back what it gave."""
    hold = dispatch.next_hold(25.0)
    assert hold
    return hold.only_these


def test_after_a_failure_the_server_takes_back_what_the_worker_does_not_know() -> None:
    dispatch = finish(Exchanger(1))
    fail(dispatch)
    assert [only_these(dispatch), only_these(dispatch)] == [True, False]
    dispatch.note_lost_answer()
    assert [only_these(dispatch), only_these(dispatch)] == [True, False]


def test_while_news_may_bring_tasks_the_server_takes_nothing_back() -> None:
    dispatch = finish(Exchanger(1))
    dispatch.end_hold(clock.now(), 0.0, is_answered=False)
    assert [only_these(dispatch), only_these(dispatch)] == [False, False]
    answer(dispatch)
    assert only_these(dispatch)


def test_while_a_slot_runs_what_it_has_claimed_itself_the_server_takes_nothing_back() -> None:
    exchanger = Exchanger(2)
    dispatch = start(exchanger)
    dispatch.note_lost_answer()
    with exchanger.claiming_slot():
        assert not only_these(dispatch)
    assert only_these(dispatch)


def test_news_brings_no_task_that_the_server_would_take_back() -> None:
    exchanger = Exchanger(1)
    dispatch = start(exchanger)
    dispatch.note_lost_answer()
    assert only_these(dispatch)
    exchanger.post(LEASE, Outcome(LEASE, b"{}"))
    news = dispatch.next_news()
    assert news and news.prefetch == 0
