"""Which requests are due, what they say, and what their answers change. It sends nothing."""
from __future__ import annotations

import math
import threading
from typing import Callable, Optional, Sequence

from transport import clock
from worker.protocol.exchange import MAX_OUTCOMES, Exchange, ExchangeAnswer, Outcome
from worker.stock.exchanger import EXCHANGES, PLAIN, UNKNOWN, Exchanger
from worker.stock.schedule import Schedule

# How often to find out whether a server without exchanges has become one with them.
PROBE_AGAIN_SECONDS = 600.0


class Dispatch:
    """What the messengers do with the state of the worker; they share an instance."""

    def __init__(self, exchanger: Exchanger) -> None:
        self._exchanger = exchanger
        self._changed = exchanger.changed
        # Apart from `changed`, since tasks begin and end all the time while news is under way.
        self._news_ended = threading.Condition(exchanger.lock)
        self._stock = exchanger.stock
        self._schedule = Schedule(exchanger.stock)
        self._probe_at = math.inf

    def next_news(self, max_outcomes: int = MAX_OUTCOMES) -> Optional[Exchange]:
        """Wait for something to tell the server at once; return None once closed."""
        with self._changed:
            while not self._exchanger.is_closed:
                now = clock.now()
                may_tell_at = self._schedule.may_tell_at(self._exchanger.depth.trip_seconds)
                due_at = self._news_due_at(now)
                if may_tell_at > now:
                    self._news_ended.wait(_seconds_until(may_tell_at))
                elif due_at > now:
                    self._changed.wait(_seconds_until(due_at))
                else:
                    self._schedule.begin_news(now)
                    news = self._stock.news(now, max_outcomes)
                    if self._schedule.is_clearing:
                        return news  # Tasks that it brought would be taken back at once.
                    return news._replace(prefetch=self._exchanger.wanted(now).prefetch)
        return None

    @property
    def has_news(self) -> bool:
        """Whether something waits to be told to the server at once, or is being told."""
        with self._changed:
            return bool(self._stock.undelivered or self._stock.has_begun
                        or self._schedule.is_telling)

    def answer_news(self, sent_at: float) -> None:
        """Note that news has been answered."""
        with self._changed:
            self._schedule.answer_news()
            self._exchanger.depth.add_trip(clock.now() - sent_at)

    def fail_news(self, exchange: Exchange) -> None:
        """Note that news has not been answered, or was refused as a whole."""
        with self._changed:
            self._schedule.fail_news()
            self._stock.untell(exchange)

    def end_news(self) -> None:
        """Note that the next news may be sent, whatever became of the last."""
        with self._changed:
            self._schedule.end_news()
            self._news_ended.notify_all()

    def wait_to_hold(self, look_at: float) -> bool:
        """Wait until a request may be sent that the server holds; False once closed.

        At `look_at`, it is time to look whether Ollama is available, if it is not.
        """
        with self._changed:
            while not self._exchanger.is_closed:
                now = clock.now()
                due_at = self._hold_due_at(look_at)
                if due_at > now:
                    self._changed.wait(_seconds_until(due_at))
                elif self._exchanger.mode == PLAIN:
                    self._exchanger.set_mode(UNKNOWN)
                else:
                    return True
        return False

    def next_hold(self, most_seconds: float) -> Optional[Exchange]:
        """Return what to say in a request that the server holds; None if there is nothing."""
        with self._changed:
            if not self._stock.is_open and not self._stock.has_tasks:
                return None
            now = clock.now()
            is_in_doubt = self._schedule.is_in_doubt
            state = self._stock.state(now, with_ended=is_in_doubt)
            wanted = self._exchanger.wanted(now)
            seconds = min([most_seconds, *(lease.seconds / 3 for lease in state.running)])
            # The answer to news, or a claim, may bring tasks that are not in the stock yet.
            is_claiming = bool(self._exchanger.claiming_slots)
            is_all = not (self._schedule.is_telling or is_claiming)
            hold = state._replace(
                wait_seconds=seconds, idle=wanted.idle, prefetch=wanted.prefetch,
                only_these=is_in_doubt and is_all)
            self._schedule.begin_hold(hold, puts_off_doubt=is_claiming)
            if self._schedule.is_in_doubt:
                self._changed.notify_all()  # News has to end this one soon.
            return hold

    def end_hold(self, sent_at: float, pause_seconds: float, is_answered: bool = True) -> None:
        """Note that the server holds nothing, and how long to pause unless news has ended it."""
        with self._changed:
            self._schedule.end_hold(clock.now(), sent_at, pause_seconds)
            if not is_answered:
                self._schedule.is_in_doubt = True
            # A sender that finds no news would only take time from a slot that begins a task.
            if not is_answered or self._stock.may_have_news or self._exchanger.is_stopping:
                self._changed.notify_all()

    def wait_until_nothing_asks(self, seconds: float) -> None:
        """Wait until the server holds no request that it could answer with a task."""
        with self._changed:
            self._changed.wait_for(lambda: not self._schedule.is_asking, seconds)

    def settle(self, exchange: Exchange, answer: ExchangeAnswer, sent_at: float,
               again: Sequence[Outcome]) -> None:
        """Apply an answer; the outcomes in `again` are to be delivered once more."""
        with self._changed:
            self._stock.undelivered.settle(exchange.outcomes, again)
            lost = self._stock.apply(exchange, answer, sent_at, clock.now())
            self._exchanger.wake_slots()
            if self._exchanger.mode != EXCHANGES:
                self._exchanger.set_mode(EXCHANGES)
            # After the answer to the held request comes `end_hold`, which wakes whoever waits.
            if exchange is not self._schedule.held:
                self._changed.notify_all()
        for running in lost:
            running.lose()
        self._exchanger.on_end()

    def note_lost_answer(self) -> None:
        """Note that the server may have given this worker tasks of which it does not know."""
        with self._changed:
            self._schedule.is_in_doubt = True
            self._changed.notify_all()

    def fail(self, exchange: Exchange) -> None:
        """Note that an exchange has failed: its outcomes are to be delivered once more."""
        with self._changed:
            self._stock.undelivered.settle(exchange.outcomes, exchange.outcomes)
            self._changed.notify_all()

    def become_plain(self) -> None:
        """Note that the Manage Server knows no exchanges."""
        with self._changed:
            self._probe_at = clock.now() + PROBE_AGAIN_SECONDS
            self._exchanger.set_mode(PLAIN)

    def take_outcome(self) -> Exchange:
        """Return an exchange with the first outcome alone."""
        with self._changed:
            return Exchange(outcomes=self._stock.undelivered.take(1))

    def forget_outcomes(self, exchange: Exchange) -> None:
        """Note that the outcomes of an exchange have been delivered, or can't be."""
        with self._changed:
            self._stock.undelivered.settle(exchange.outcomes, ())
            self._exchanger.wake_slots()
            self._changed.notify_all()
        self._exchanger.on_end()

    def drop_outcomes(self, report: Callable[[int], None]) -> None:
        """Drop the outcomes that wait, and report the id of each task before the worker ends."""
        with self._changed:
            for outcome in self._stock.undelivered.drop_waiting():
                report(outcome.lease.task_id)
        self._exchanger.on_end()

    def pause(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait so long, or until the worker ends, or the condition holds."""
        with self._changed:
            self._changed.wait_for(lambda: self._exchanger.is_closed or is_over(), seconds)

    def _news_due_at(self, now: float) -> float:
        exchanger = self._exchanger
        # At its end, a worker tells even a server that holds its first request.
        may_tell = exchanger.mode == EXCHANGES or (
            exchanger.mode == UNKNOWN and exchanger.is_stopping)
        self._stock.give_back_late(now)
        if not may_tell and not self._stock.has_outcomes:
            return self._stock.late_at
        return min(self._stock.late_at, self._schedule.news_due_at(now, exchanger.wanted(now)))

    def _hold_due_at(self, look_at: float) -> float:
        if self._exchanger.mode == PLAIN:
            return self._probe_at
        if self._stock.is_open or self._stock.has_tasks:
            return self._schedule.hold_at
        must_look = not self._exchanger.is_ollama_up and not self._exchanger.is_stopping
        return max(look_at, self._schedule.hold_at) if must_look else math.inf


def _seconds_until(moment: float) -> Optional[float]:
    """Return the time to wait; None for ever."""
    return None if moment == math.inf else max(0.0, moment - clock.now())
