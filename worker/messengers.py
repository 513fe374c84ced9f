"""The two threads that exchange outcomes and tasks with the Manage Server. They know no Ollama.

The sender tells news at once. The holder sends the request that the server holds: it renews the
leases, learns what is lost, and is how an idle worker gets its next task.
"""
from __future__ import annotations

import json
import logging
import time
from typing import Any, Dict, List, Optional, Set, Tuple

from transport.sessions import to_json
from worker.delivery import deliver, log_refusal, log_undelivered, substitute
from worker.dispatch import Dispatch
from worker.exchange import (
    MAX_OUTCOMES,
    Exchange,
    ExchangeAnswer,
    Outcome,
    Verdict,
    parse_exchange,
)
from worker.lookout import Lookout
from worker.manage_client import AccessDenied, AnswerRefused, NoExchanges, ServerDown, TooLarge
from worker.outcomes import refused
from worker.shared import Shared
from worker.task import Malformed

Json = Dict[str, Any]

log = logging.getLogger(__name__)

# Of an outcome that was not delivered, these statuses say nothing about it.
TEMPORARY = (0, 401, 403, 408, 429)
# After an answer within this time that tells nothing, although it could have been held.
QUICK_SECONDS = 1.0

# After an answer with tasks: what they need first is the processor, to begin.
BEGIN_SECONDS = 0.005

# When the worker must end, there is no time for more.
LAST_PAUSE_SECONDS = 0.1


class Contact:
    """What the messengers know together: what is due, and who finds the server unavailable."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        self.failing: Set[Messenger] = set()
        # How often one of them has found that the server is available again.
        self.recoveries = 0


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
        try:
            claim = self.lookout.claim_fields(self.reports_inventory)
            received = self.client.exchange(
                exchange.to_bytes(claim), exchange.media_type, exchange.wait_seconds,
                may_probe=not self.shared.manage_outage.is_on)
            answer = parse_exchange(received, exchange)
        except Malformed as error:
            self.dispatch.fail(exchange)
            raise self.client.unusable(f"sent an answer that can't be used: {error}") from None
        except BaseException:
            self.dispatch.fail(exchange)
            raise
        again, failure = self._judge(exchange, answer)
        self.dispatch.settle(exchange, answer, sent_at, again)
        self.lookout.note(answer, len(claim["models"]))
        if failure:
            raise ServerDown(failure)
        for problem in answer.problems:
            raise self.client.unusable(f"sent a task that can't be run: {problem}")
        self._record_success()
        return answer

    def back_off(self, error: Exception) -> None:
        """Wait before another try: no longer if the other messenger finds the server available, or
        the worker must end."""
        if self.exchanger.is_closed:
            return  # Ending a request looks like an outage.
        self.contact.failing.add(self)
        seconds = self.shared.manage_outage.record_failure(error)
        recoveries, is_releasing = self.contact.recoveries, self.exchanger.is_releasing
        if is_releasing:
            seconds = min(seconds, LAST_PAUSE_SECONDS)
        self.dispatch.pause(seconds, lambda: (
            self.contact.recoveries != recoveries or self.exchanger.is_releasing != is_releasing))

    def _record_success(self) -> None:
        """Note that the server is available, unless the other messenger still finds it is not."""
        if self in self.contact.failing:
            self.contact.failing.discard(self)
            self.contact.recoveries += 1
            self.exchanger.wake()
        if not self.contact.failing:
            self.shared.manage_outage.record_success()

    def _judge(self, exchange: Exchange, answer: ExchangeAnswer
               ) -> Tuple[Tuple[Outcome, ...], str]:
        """Return the outcomes to deliver once more, in this form or another, and why."""
        again: List[Outcome] = []
        failure = ""
        for outcome, verdict in zip(exchange.outcomes, answer.verdicts):
            if verdict.status in TEMPORARY or verdict.status >= 500:
                again.append(outcome)
                failure = failure or (f"{self.client.name} answered {verdict.status}: "
                                      f"{verdict.reason or 'It gave no reason.'}")
            elif verdict.status != 200:
                again += _after_refusal(outcome, verdict)
        return tuple(again), failure


def _after_refusal(outcome: Outcome, verdict: Verdict) -> List[Outcome]:
    refusal = verdict.reason or f"HTTP status {verdict.status}"
    is_lost = verdict.status in (404, 409)
    body = json.loads(outcome.data)
    # A task that is given back, and is another worker's already, is where it should be.
    if not (is_lost and body.get("release")):
        log_refusal(outcome.task_id, refusal)
    if is_lost:
        return []
    if "answer" in body:
        again: Optional[Json] = {"task_id": body["task_id"], "lease_id": body["lease_id"],
                                 **refused(AnswerRefused(refusal))}
    else:
        again = substitute(body, refusal)
    return [] if again is None else [Outcome(outcome.task_id, to_json(again))]


class Sender(Messenger):
    """Tells news: outcomes, and which tasks have begun."""

    max_outcomes = MAX_OUTCOMES

    def send_all(self) -> None:
        while True:
            exchange = self.dispatch.next_news(self.max_outcomes)
            if exchange is None:
                return
            sent_at = time.monotonic()
            failure: Optional[Exception] = None
            try:
                self._send(exchange, sent_at)
            except (ServerDown, AccessDenied) as error:
                failure = error
            finally:
                self.dispatch.end_news(sent_at, is_answered=failure is None)
            if failure:
                self._back_off(failure)

    def _send(self, exchange: Exchange, sent_at: float) -> None:
        if self.exchanger.is_plain:
            self._deliver(exchange)
            return
        try:
            self.exchange(exchange, sent_at)
            self.max_outcomes = min(MAX_OUTCOMES, 2 * self.max_outcomes)
        except NoExchanges:
            self.dispatch.become_plain()
        except TooLarge:
            if not exchange.outcomes:
                raise
            # It is for one of them, or for all together.
            self.max_outcomes = max(1, len(exchange.outcomes) // 2)
            if len(exchange.outcomes) == 1:
                self._deliver(self.dispatch.take_outcome())

    def _deliver(self, exchange: Exchange) -> None:
        """Deliver outcomes one by one, as every Manage Server takes them."""
        for outcome in exchange.outcomes:
            if outcome.deliver_answer:
                outcome.deliver_answer(self.client)
                continue
            deliver(self.client, json.loads(outcome.data), self.shared.manage_outage,
                    self.shared.releasing)
        self.dispatch.forget_outcomes(exchange)

    def _back_off(self, error: Exception) -> None:
        if self.exchanger.is_releasing:
            self.dispatch.drop_outcomes(log_undelivered)
        self.back_off(error)


class Holder(Messenger):
    """Sends the request that the server holds, and looks at Ollama before it."""

    reports_inventory = True

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
        sent_at, pause_seconds = time.monotonic(), 0.0
        failure: Optional[Exception] = None
        try:
            answer = self.exchange(exchange, sent_at)
            if answer.is_empty and time.monotonic() - sent_at < QUICK_SECONDS:
                pause_seconds = self.shared.timing.empty_claim_pause_seconds
            elif answer.given:
                pause_seconds = BEGIN_SECONDS
        except NoExchanges:
            self.dispatch.become_plain()
        except (ServerDown, AccessDenied) as error:
            failure = error
        finally:
            self.dispatch.end_hold(sent_at, pause_seconds)
        if failure:
            self.back_off(failure)
