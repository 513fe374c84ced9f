"""When the next requests to the Manage Server are due. It sends nothing, and knows no threads.

News is sent at once, or soon after other news that has not been answered. Besides, the server holds
one request until it has a task or a lease is lost, or until news comes.
"""
from __future__ import annotations

import math
from typing import Optional

from worker.protocol.exchange import Exchange
from worker.stock.stock import Stock

# That a task has begun is told together with its outcome, if that comes this soon.
BEGIN_DELAY_SECONDS = 0.005
# News may come much more often than a request needs to be held.
MIN_HOLD_INTERVAL_SECONDS = 0.1
# Where an answer takes this long, so many may be under way: news does not wait for the answer to
# the last. Elsewhere, what comes up meanwhile goes together, which is less work for both sides.
LONG_TRIP_SECONDS = 0.03
MAX_NEWS_UNDER_WAY = 4
MIN_NEWS_INTERVAL_SECONDS = 0.02


class Schedule:
    """Follows what is sent; its owner has the lock."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        # The request that the server holds, and when the next one may be sent.
        self.held: Optional[Exchange] = None
        self.hold_at = -math.inf
        # Whether a request has failed, so that nobody knows what the server has heard and said,
        # until a held request has told it what this worker has.
        self.is_in_doubt = False
        # Whether the held request could not clear this up: see `begin_hold`.
        self._puts_off_doubt = False
        self._begun_at = math.inf
        self._under_way = 0
        self._max_under_way = MAX_NEWS_UNDER_WAY
        self._last_news_at = -math.inf
        # News that was sent and did not fail.
        self._news_sent = self._news_answered = 0
        # How many of them had been sent, and answered, when the held request was made up.
        self._sent_before = self._answered_before = 0

    @property
    def is_asking(self) -> bool:
        """Whether the held request may be answered with a task."""
        return self.held is not None and bool(self.held.idle or self.held.prefetch)

    @property
    def is_clearing(self) -> bool:
        """Whether the held request has the server take back what this worker does not know."""
        return self.held is not None and self.held.only_these

    @property
    def is_telling(self) -> bool:
        """Whether news is under way, whose answer may bring tasks."""
        return self._under_way > 0

    def news_due_at(self, now: float, wanted: Exchange) -> float:
        """Return when news must be sent, as far as is known now."""
        if self._stock.has_outcomes or self._is_held_in_vain(wanted):
            return now
        if not self._stock.has_begun:
            self._begun_at = math.inf
        elif self._begun_at == math.inf:
            self._begun_at = now
        return self._begun_at + BEGIN_DELAY_SECONDS

    def may_tell_at(self, trip_seconds: float) -> float:
        """Return when news may be sent, in view of what is under way; infinity if after that."""
        if not self._under_way:
            return -math.inf
        if self._under_way >= self._max_under_way or trip_seconds < LONG_TRIP_SECONDS:
            return math.inf
        return self._last_news_at + max(
            MIN_NEWS_INTERVAL_SECONDS, trip_seconds / MAX_NEWS_UNDER_WAY)

    def begin_news(self, now: float) -> None:
        self._under_way += 1
        self._news_sent += 1
        self._last_news_at = now
        self._begun_at = math.inf

    def answer_news(self) -> None:
        self._news_answered += 1
        self._max_under_way = MAX_NEWS_UNDER_WAY

    def fail_news(self) -> None:
        """Note that news was not answered: until some is, only one at a time is tried."""
        self._news_sent -= 1
        self._sent_before = min(self._sent_before, self._news_sent)
        self._max_under_way = 1
        self.is_in_doubt = True

    def end_news(self) -> None:
        self._under_way -= 1

    def begin_hold(self, exchange: Exchange, puts_off_doubt: bool = False) -> None:
        """Note what the held request says; with `puts_off_doubt`, it need not be ended because of
        what may be in doubt."""
        self.held = exchange
        self.is_in_doubt = self.is_in_doubt and not exchange.only_these
        self._puts_off_doubt = puts_off_doubt
        self._sent_before, self._answered_before = self._news_sent, self._news_answered

    def end_hold(self, now: float, sent_at: float, pause_seconds: float) -> None:
        """Note that the server holds nothing, and why the next request must wait."""
        self.held = None
        was_replaced = self._news_sent != self._answered_before
        self.hold_at = (sent_at + MIN_HOLD_INTERVAL_SECONDS if was_replaced
                        else now + pause_seconds)

    def _is_held_in_vain(self, wanted: Exchange) -> bool:
        """Whether the server holds a request that asks for less than is wanted, or for too much, or
        was sent before there was doubt."""
        held = self.held
        if held is None or self._news_sent > self._sent_before:
            return False
        asks = bool(wanted.idle or wanted.prefetch)
        return (wanted.idle > held.idle or wanted.prefetch > held.prefetch == 0
                or (self.is_asking and not asks)
                or (self.is_in_doubt and not self._puts_off_doubt))
