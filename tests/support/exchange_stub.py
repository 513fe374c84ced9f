"""A stub Manage Server that knows POST /task/exchange, and does otherwise as a test says."""
from __future__ import annotations

import json
import queue
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Set, Tuple

from tests.support.stub_server import HANG_UP, SOON_SECONDS, Answer, Json, Request
from tests.support.worker_stubs import MARKER, StubManageServer

EXCHANGE_TYPE = "application/vnd.llm-tasks.exchange"


class ExchangeStub(StubManageServer):
    """Gives submitted tasks to idle slots, then in advance; ends the request that it holds when
    the next one comes."""

    def __init__(self) -> None:
        # The bodies of all exchanges; the tasks that have begun after they were prefetched.
        self.exchanges: List[Json] = []
        self.begun: queue.Queue[int] = queue.Queue()
        # The leases of tasks that were given in advance and have not begun.
        self.reserved: Dict[str, int] = {}
        # The leases of which the next exchange that states them is told that they are lost.
        self.lost_leases: Set[str] = set()
        self.begin_within: Any = 1000
        # Whole answers to the next exchanges; what became of the next outcomes.
        self.exchange_answers: Deque[Answer] = deque()
        self.verdicts: Deque[Json] = deque()
        # While set, the answers to exchanges with outcomes are lost, or late; or all are late.
        self.loses_answers = False
        self.holds_answers = False
        self.is_silent = False
        self.knows_exchanges = True
        # How many answers have been lost; the exchange that is held.
        self.lost_answers = 0
        self.held: Json = {}
        self._held_answer: Optional[Json] = None
        self._newest = 0
        super().__init__()

    def lose(self, *lease_ids: str) -> None:
        """Say that these leases are lost, at once to a request that is held."""
        with self.changed:
            self.lost_leases.update(lease_ids)
            self.changed.notify_all()

    def let_answers_go(self) -> None:
        with self.changed:
            self.holds_answers = False
            self.changed.notify_all()

    def next_begun(self) -> int:
        return self.begun.get(timeout=SOON_SECONDS)

    def last(self) -> Json:
        return self.exchanges[-1]

    def wait_for(self, **fields: Any) -> Json:
        """Wait until an exchange has had these fields; return the first one."""
        def find() -> List[Json]:
            return [body for body in self.exchanges
                    if all(body.get(key) == value for key, value in fields.items())]
        self.wait_until(find)
        return find()[0]

    def answer_held(self, answer: Json) -> None:
        """Answer the exchange that is held."""
        with self.changed:
            assert self.held, "no exchange is held"
            self._held_answer = answer
            self.changed.notify_all()

    def wait_until_held(self, **fields: Any) -> None:
        """Wait until an exchange with these fields is held: until then, others may be sent."""
        self.wait_until(lambda: self.held and all(
            self.held[key] == value for key, value in fields.items()))

    def wait_until_last(self, **fields: Any) -> None:
        """Wait until the last exchange has these fields."""
        self.wait_until(lambda: self.exchanges and all(
            self.exchanges[-1].get(key) == value for key, value in fields.items()))

    def _answer_more(self, request: Request) -> Answer:
        if request.path != "/task/exchange" or not self.knows_exchanges:
            return super()._answer_more(request)
        line, _, rest = request.body.partition(b"\n")
        is_typed = request.headers["Content-Type"] == EXCHANGE_TYPE
        assert is_typed == bool(rest), "the Content-Type does not fit the body"
        with self.changed:
            return self._exchange(json.loads(line), rest)

    def _exchange(self, body: Json, rest: bytes) -> Answer:
        self.exchanges.append(body)
        self._newest += 1
        mine = self._newest
        self.changed.notify_all()
        if self.exchange_answers:
            return self.exchange_answers.popleft()
        verdicts = []
        for outcome in body.get("outcomes", []):
            size = outcome.get("answer", {}).get("bytes", 0)
            verdicts.append(self._verdict(outcome, rest[:size]))
            rest = rest[size:]
        for lease in body["running"]:
            if self.reserved.pop(lease["lease_id"], None):
                self.begun.put(lease["task_id"])
        self.changed.wait_for(lambda: self.is_closed or not (
            self.is_silent or (verdicts and self.holds_answers)))
        wanted = self._wants_inventory(body)
        tasks: List[Tuple[Json, bytes]] = []

        def has_news() -> bool:
            self._supply(body, tasks)
            return bool(tasks or self._lost(body))

        if body["wait"] and not (has_news() or verdicts or wanted):
            self.held = body
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.is_closed or self._held_answer or (
                self._newest != mine) or has_news(), body["wait"])
            self.held = {}
            answer, self._held_answer = self._held_answer, None
            if answer:
                return 200, answer
        if self.is_closed:
            return HANG_UP
        if verdicts and self.loses_answers:
            self.lost_answers += 1
            self.changed.notify_all()
            return HANG_UP
        lost = self._lost(body)
        self.lost_leases -= {lease["lease_id"] for lease in body["running"] + body["prefetched"]}
        self.changed.notify_all()
        answer = {"outcomes": verdicts, "lost": lost, "tasks": [fields for fields, _ in tasks],
                  **({"inventory_wanted": True} if wanted else {})}
        if not any(attachment for _, attachment in tasks):
            return 200, answer
        attachments = b"".join(attachment for _, attachment in tasks)
        return (200, json.dumps(answer).encode() + b"\n" + attachments,
                {**MARKER, "Content-Type": EXCHANGE_TYPE})

    def _verdict(self, outcome: Json, data: bytes) -> Json:
        self.reserved.pop(outcome.get("lease_id", ""), None)
        self.outcomes.put(outcome)
        verdict = self.verdicts.popleft() if self.verdicts else {"status": 200}
        if "answer" in outcome and verdict["status"] == 200:
            self.relayed[outcome["task_id"]] = data
        return verdict

    def _wants_inventory(self, body: Json) -> bool:
        has = self.inventory_digest
        return has is not None and body.get("inventory", has) != has

    def _lost(self, body: Json) -> List[int]:
        return [lease["task_id"] for lease in body["running"] + body["prefetched"]
                if lease["lease_id"] in self.lost_leases]

    def _supply(self, body: Json, tasks: List[Tuple[Json, bytes]]) -> None:
        claimed = sum("begin_within" not in fields for fields, _ in tasks)
        while self._claim_answers and claimed < body["idle"]:
            tasks.append(self._next_task())
            claimed += 1
        while self._claim_answers and len(self.reserved) < body["prefetch"]:
            fields, attachment = self._next_task()
            tasks.append(({**fields, "begin_within": self.begin_within}, attachment))
            self.reserved[fields["lease_id"]] = fields["task_id"]

    def _next_task(self) -> Tuple[Json, bytes]:
        content = self._claim_answers.popleft()[1]
        if isinstance(content, dict):
            return content, b""
        assert isinstance(content, bytes)
        first, _, attachment = content.partition(b"\n")
        return {**json.loads(first), "body_bytes": len(attachment)}, attachment
