"""The threads that tell the Manage Server news at once. They know no Ollama."""
from __future__ import annotations

import json

from transport import clock
from worker.protocol.errors import AccessDenied, NoExchanges, ServerDown, TooLarge
from worker.protocol.exchange import MAX_OUTCOMES, Exchange
from worker.runs.delivery import deliver, log_undelivered
from worker.threads.lookout import Lookout
from worker.threads.messengers import Contact, Messenger
from worker.threads.shared import Shared


class Sender(Messenger):
    """Tells news: outcomes, and which tasks have begun. There are several, which take turns."""

    def __init__(self, shared: Shared, lookout: Lookout, contact: Contact) -> None:
        super().__init__(shared, lookout, contact)
        contact.clients.append(self.client)

    def send_all(self) -> None:
        while True:
            with self.contact.turn:
                exchange = self.dispatch.next_news(self.contact.max_outcomes)
            if exchange is None:
                return
            self.client = self.contact.clients.pop()
            try:
                self._send_news(exchange)
            finally:
                self.contact.clients.append(self.client)
                self.dispatch.end_news()

    def _send_news(self, exchange: Exchange) -> None:
        sent_at = clock.now()
        try:
            self._send(exchange, sent_at)
        except (ServerDown, AccessDenied) as error:
            self.dispatch.fail_news(exchange)
            # Until this is over, nothing else is sent.
            self._back_off(error)
        except BaseException:
            self.dispatch.fail_news(exchange)
            raise
        else:
            self.dispatch.answer_news(sent_at)

    def _send(self, exchange: Exchange, sent_at: float) -> None:
        if self.exchanger.is_plain:
            self._deliver(exchange)
            return
        try:
            self.exchange(exchange, sent_at)
            self.contact.max_outcomes = min(MAX_OUTCOMES, 2 * self.contact.max_outcomes)
        except NoExchanges:
            self.dispatch.become_plain()
        except TooLarge:
            if not exchange.outcomes:
                raise
            # It is for one of them, or for all together.
            self.contact.max_outcomes = max(1, len(exchange.outcomes) // 2)
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
        self.contact.note_silence(error)
        self.back_off(error)
