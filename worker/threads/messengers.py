"""The threads that exchange outcomes and tasks with the Manage Server. They know no Ollama.

The holder sends the request that the server holds: it renews the leases, learns what is lost, and
is how an idle worker gets its next task. The senders are in senders.py.
"""
from __future__ import annotations

import logging
import math
import threading
from typing import List, Optional, Set, Type

from transport import clock
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, NoExchanges, ServerDown, Unreachable
from worker.protocol.exchange import MAX_OUTCOMES, Exchange, ExchangeAnswer, parse_exchange
from worker.protocol.task import Malformed
from worker.stock.dispatch import Dispatch
from worker.stock.schedule import MIN_HOLD_INTERVAL_SECONDS
from worker.stock.verdicts import judge
from worker.threads.lookout import Lookout
from worker.threads.shared import Shared

log = logging.getLogger(__name__)

# An answer within this time could have been held: the next one may come as soon.
QUICK_SECONDS = 1.0

# After an answer with tasks: what they need first is the processor, to begin.
BEGIN_SECONDS = 0.005

# When the worker must end, there is no time for more.
LAST_PAUSE_SECONDS = 0.1


class Contact:
    """What the messengers know together: what is due, and who finds the server unavailable."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        # Held by the sender that waits for news; the others have sent some, or wait for this.
        self.turn = threading.Lock()
        # Those that no sender uses. The last one is used next, so that few connections are open.
        self.clients: List[ManageClient] = []
        # How many outcomes go together; fewer after something in between found them too large.
        self.max_outcomes = MAX_OUTCOMES
        # Of which kind are those that fail.
        self.failing: Set[Type[Messenger]] = set()
        # How often one of them has found that the server is available again.
        self.recoveries = 0
        self.holder: Optional[Holder] = None

    def note_silence(self, error: Exception) -> None:
        """Have the holder ask anew where nothing has come over the link for too long."""
        if isinstance(error, Unreachable) and error.is_silence and self.holder:
            self.holder.hang_up(error.sent_at)


class Messenger:
    """What sender and holder have in common: a client, and what an answer means."""

    # One of them is enough.
    reports_inventory = False

    def __init__(self, shared: Shared, lookout: Lookout, contact: Contact) -> None:
        self.shared = shared
        self.exchanger = shared.exchanger
        self.dispatch = contact.dispatch
        self.lookout = lookout
        self.contact = contact
        self.client = shared.make_client()

    def run(self) -> None:
        """Send until the worker ends."""
        while not self.exchanger.is_closed:
            try:
                self.send_all()
            except Exception:
                log.exception("unexpected error, please report it; the worker goes on")
                self.dispatch.pause(self.shared.timing.max_pause_seconds)

    def send_all(self) -> None:
        """Send one request after the other, until the worker ends."""
        raise NotImplementedError

    def exchange(self, exchange: Exchange, sent_at: float) -> ExchangeAnswer:
        """Send an exchange, and apply its answer. Raises NoExchanges, ServerDown, AccessDenied.

        The outcomes of one that fails go back to where they were.
        """
        repeats = self.client.connection.repeats
        try:
            claim = self.lookout.claim_fields(self.reports_inventory)
            received = self.client.exchange(
                exchange.to_bytes(claim), exchange.media_type, exchange.wait_seconds,
                may_probe=not self.shared.manage_outage.is_on)
            answer = parse_exchange(received, exchange)
        except Malformed as error:
            self.dispatch.fail(exchange)
            raise self.client.connection.unusable(
                f"sent an answer that can't be used: {error}") from None
        except BaseException:
            self.dispatch.fail(exchange)
            raise
        again, failure = judge(exchange.outcomes, answer.verdicts)
        self.dispatch.settle(exchange, answer, sent_at, again)
        if self.client.connection.repeats != repeats:
            self.dispatch.note_lost_answer()
        self.lookout.note(answer, len(claim["models"]))
        if failure:
            raise ServerDown(f"{self.client.connection.name} {failure}")
        for problem in answer.problems:
            raise self.client.connection.unusable(f"sent a task that can't be run: {problem}")
        self._record_success()
        return answer

    def back_off(self, error: Exception) -> None:
        """Wait before another try: no longer if the other messenger finds the server available, or
        the worker must end."""
        if self.exchanger.is_closed:
            return  # Ending a request looks like an outage.
        self.contact.failing.add(type(self))
        seconds = self.shared.manage_outage.record_failure(error)
        recoveries, is_releasing = self.contact.recoveries, self.exchanger.is_releasing
        if is_releasing:
            seconds = min(seconds, LAST_PAUSE_SECONDS)
        self.dispatch.pause(seconds, lambda: (
            self.contact.recoveries != recoveries or self.exchanger.is_releasing != is_releasing))

    def _record_success(self) -> None:
        """Note that the server is available, unless the other messenger still finds it is not."""
        if type(self) in self.contact.failing:
            self.contact.failing.discard(type(self))
            self.contact.recoveries += 1
            self.exchanger.wake()
        if not self.contact.failing:
            self.shared.manage_outage.record_success()


class Holder(Messenger):
    """Sends the request that the server holds, and looks at Ollama before it."""

    reports_inventory = True

    def __init__(self, shared: Shared, lookout: Lookout, contact: Contact) -> None:
        super().__init__(shared, lookout, contact)
        contact.holder = self
        self._sent_at = math.inf

    def _record_success(self) -> None:
        if self.contact.failing and not self.dispatch.has_news:
            # The senders that have failed have nothing left to try again.
            self.contact.failing.intersection_update({Holder})
        super()._record_success()

    def hang_up(self, sent_before: float) -> None:
        """End the request under way if it was sent before this time; called by another thread."""
        if self._sent_at <= sent_before:
            self.client.abort()

    def send_all(self) -> None:
        while self.dispatch.wait_to_hold(self.lookout.look_at):
            if not self.exchanger.is_stopping:
                self.lookout.look()
            timing = self.shared.timing
            seconds = timing.claim_wait_seconds
            if self.shared.manage_outage.is_on:
                # The answer is what tells that the outage is over.
                seconds = min(seconds, timing.outage_claim_wait_seconds)
            exchange = self.dispatch.next_hold(seconds)
            if exchange:
                self._hold(exchange)

    def _hold(self, exchange: Exchange) -> None:
        if self.client.connection.is_aborted:
            self.client = self.shared.make_client()
        sent_at = self._sent_at = clock.now()
        pause_seconds, is_answered = 0.0, False
        failure: Optional[Exception] = None
        try:
            answer, is_answered = self.exchange(exchange, sent_at), True
            if answer.given:
                pause_seconds = BEGIN_SECONDS
            elif clock.now() - sent_at < QUICK_SECONDS:
                pause_seconds = (self.shared.timing.empty_claim_pause_seconds if answer.is_empty
                                 else MIN_HOLD_INTERVAL_SECONDS)
        except NoExchanges:
            is_answered = True
            self.dispatch.become_plain()
        except (ServerDown, AccessDenied) as error:
            failure = error
        finally:
            self._sent_at = math.inf
            self.dispatch.end_hold(sent_at, pause_seconds, is_answered)
        if failure:
            self.back_off(failure)
