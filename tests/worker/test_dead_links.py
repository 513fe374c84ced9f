"""A link to the Manage Server that has silently died: the worker says so once and goes on."""
from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator, List

import pytest

from tests.support.exchange_stub import ExchangeStub
from tests.support.log_lines import LogLines
from tests.support.names import Names
from tests.support.proxy import Proxy
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama
from transport.clock import now
from transport.links import Link
from transport.no_answer import LOST, REFUSED, SILENT, UNREACHABLE, NoAnswer
from transport.sessions import SILENCE_SECONDS
from worker.protocol.errors import ServerDown, Unreachable
from worker.protocol.outage import Outage
from worker.threads.shared import DEFAULT_TIMING

SLOTS = 4
BACK = "is available again."
# A claim is held for so long, and its answer may take a silence longer.
CLAIM_SECONDS = DEFAULT_TIMING.claim_wait_seconds + SILENCE_SECONDS


class Clock:
    """The clock of all links, which a test may put forward."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0

    def __call__(self) -> float:
        return now() + self._ahead_seconds

    def pass_seconds(self, seconds: float) -> None:
        self._ahead_seconds += seconds


class Links:
    """Two ways to the Manage Server, at different addresses; the name stands for the first."""

    def __init__(self, manage: StubManageServer, names: Names, old: Proxy, new: Proxy,
                 clock: Clock) -> None:
        self._manage, self._names, self._old, self._new = manage, names, old, new
        self._clock = clock
        self.url = names.move("tasks.test", old.url)

    def die(self) -> None:
        """Let nothing through any more at the first address, and move the name to the second."""
        self._old.stall()
        self._names.move("tasks.test", self._new.url)

    def fall_silent(self) -> None:
        """Wait until a request, or its answer, is lost; then let the time for the answer pass."""
        assert self._old.wait_for_stalled_chunk(SOON_SECONDS)
        self.pass_seconds(SILENCE_SECONDS)

    def pass_seconds(self, seconds: float) -> None:
        """Let the time pass for all requests that are under way."""
        self._clock.pass_seconds(seconds)

    @property
    def old_chunks(self) -> int:
        """How much has been sent to the first address."""
        return self._old.chunks

    def wait_for_claims(self, count: int) -> None:
        self._manage.wait_until(lambda: len(self._manage.claims) >= count)


@pytest.fixture
def links(manage: StubManageServer, monkeypatch: Any) -> Iterator[Links]:
    clock = Clock()
    monkeypatch.setattr("worker.threads.shared.Link", lambda: Link(clock))
    monkeypatch.setattr("transport.deadline.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("transport.deadline.IDLE_LOOK_SECONDS", 0.01)
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(Proxy(manage.url)) for _ in range(2))
        yield Links(manage, Names(monkeypatch), old, new, clock)


def warnings(caplog: Any) -> List[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def count_recoveries(caplog: Any) -> int:
    return sum(BACK in record.getMessage() for record in caplog.records)


def test_held_claims_of_a_dead_link_are_noticed_said_once_and_made_anew_by_name(
    make_worker: Callable[..., RunningWorker], manage: StubManageServer, ollama: StubOllama,
    links: Links, caplog: Any
) -> None:
    make_worker(manage_server_url=links.url, worker_concurrency=SLOTS).start()
    links.wait_for_claims(SLOTS)
    links.die()
    for _ in range(SLOTS):
        manage.answer_claim(200, {})
    manage.wait_until_taken()
    links.pass_seconds(CLAIM_SECONDS)
    links.wait_for_claims(2 * SLOTS)
    for task_id in range(1, SLOTS + 1):
        manage.submit(task_id)
    for _ in range(SLOTS):
        ollama.next_call().finish()
    for _ in range(SLOTS):
        assert manage.next_outcome()["result"] == "the answer"
    assert len(warnings(caplog)) == 1 and "is not answering" in warnings(caplog)[0]
    assert count_recoveries(caplog) == 1


def test_a_delivery_over_a_dead_link_is_made_at_the_new_address(
    make_worker: Callable[..., RunningWorker], manage: StubManageServer, ollama: StubOllama,
    links: Links, caplog: Any
) -> None:
    make_worker(manage_server_url=links.url).start()
    manage.submit()
    call = ollama.next_call()
    links.die()
    call.finish()
    links.fall_silent()
    assert manage.next_outcome()["result"] == "the answer"
    assert len(warnings(caplog)) == 1
    assert "a connection that worked has fallen silent" in warnings(caplog)[0]


def test_a_slot_learns_from_another_that_its_connection_is_dead(
    make_worker: Callable[..., RunningWorker], manage: StubManageServer, ollama: StubOllama,
    links: Links, caplog: Any
) -> None:
    make_worker(manage_server_url=links.url, worker_concurrency=2).start()
    links.wait_for_claims(2)
    manage.submit()
    call = ollama.next_call()
    links.die()
    links.pass_seconds(CLAIM_SECONDS)
    links.wait_for_claims(3)
    chunks = links.old_chunks
    call.finish()
    manage.next_outcome()
    assert links.old_chunks == chunks and len(warnings(caplog)) == 1


class TestExchanges:
    @pytest.fixture
    def manage(self) -> Iterator[ExchangeStub]:
        with ExchangeStub() as stub:
            yield stub

    def test_a_held_request_is_sent_anew_when_news_over_the_same_link_was_not_answered(
        self, make_worker: Callable[..., RunningWorker], manage: ExchangeStub, ollama: StubOllama,
        links: Links, log: LogLines
    ) -> None:
        make_worker(manage_server_url=links.url, claim_wait_seconds=1000).start()
        manage.submit(1)
        ollama.next_call().finish()
        assert manage.next_outcome()["task_id"] == 1
        # With nothing else under way, the task is claimed, and nothing is told of its beginning.
        manage.wait_until_held(idle=1)
        manage.submit(2)
        call = ollama.next_call()
        manage.wait_until_held(running=[{"task_id": 2, "lease_id": "lease-2"}])
        links.die()
        call.finish()
        links.fall_silent()
        assert manage.next_outcome()["task_id"] == 2
        manage.wait_until_last(idle=1)
        manage.submit(3)
        ollama.next_call().finish()
        assert manage.next_outcome()["task_id"] == 3
        assert len(log.wait_for(BACK, "INFO")) == len(log.find()) == 1


def test_a_renewal_over_a_dead_link_is_made_at_the_new_address(
    make_worker: Callable[..., RunningWorker], manage: StubManageServer, ollama: StubOllama,
    links: Links, caplog: Any
) -> None:
    make_worker(manage_server_url=links.url, heartbeat_seconds=0.05).start()
    manage.submit()
    call = ollama.next_call()
    manage.next_progress()
    links.die()
    links.fall_silent()
    while not manage.progress.empty():
        manage.next_progress()
    manage.next_progress()
    call.finish()
    manage.next_outcome()
    assert len(warnings(caplog)) == count_recoveries(caplog) == 1


def test_a_claim_in_an_outage_is_not_held_for_long(
    make_worker: Callable[..., RunningWorker], manage: StubManageServer
) -> None:
    manage.any_answers.append((503, {"error": "The store is down."}))
    make_worker(claim_wait_seconds=50, outage_claim_wait_seconds=2).start()
    manage.wait_until(lambda: manage.claims)
    assert manage.claims[0]["wait"] == 2


def test_an_inventory_that_does_not_arrive_is_an_outage(
    make_worker: Callable[..., RunningWorker], manage: StubManageServer, links: Links,
    log: LogLines, monkeypatch: Any
) -> None:
    def hang(*arguments: Any) -> Any:
        raise Unreachable(NoAnswer("It is silent.", SILENT), now())
    monkeypatch.setattr("worker.protocol.client.ManageClient.send_inventory", hang)
    manage.inventory_digest = "another"
    make_worker().start()
    assert log.wait_for("silent")


@pytest.fixture
def outage() -> Outage:
    return Outage(BACK)


def unreachable(cause: str, seconds_ago: float = 0.0, text: str = "It is dead.") -> Unreachable:
    return Unreachable(NoAnswer(text, cause), now() - seconds_ago)


def test_a_request_that_was_under_way_in_an_outage_is_no_outage_of_its_own(
    outage: Outage, caplog: Any
) -> None:
    caplog.set_level("INFO")
    outage.record_failure(unreachable(SILENT))
    outage.record_success()
    outage.record_failure(unreachable(SILENT, seconds_ago=25))
    assert len(warnings(caplog)) == 1 and not outage.is_on
    outage.record_failure(unreachable(SILENT, seconds_ago=-1))
    assert len(warnings(caplog)) == 2 and outage.is_on


def test_a_network_that_fails_in_several_ways_is_one_outage(outage: Outage, caplog: Any) -> None:
    outage.record_failure(unreachable(SILENT, text="It has fallen silent."))
    outage.record_failure(unreachable(UNREACHABLE, text="It does not react."))
    outage.record_failure(unreachable(LOST, text="It hung up."))
    assert warnings(caplog) == ["It has fallen silent. Retrying until it works."]
    outage.record_failure(unreachable(REFUSED, text="Nothing listens."))
    outage.record_failure(ServerDown("It answered 503."))
    assert len(warnings(caplog)) == 3

