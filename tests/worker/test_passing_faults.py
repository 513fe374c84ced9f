"""What goes wrong once leaves nothing behind: no outage, no thread that waits, no lock held."""
from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, Iterator, List

import pytest

import config
from tests.support.stub_server import SOON_SECONDS, Request
from tests.support.worker_stubs import StubManageServer, StubOllama
from tests.worker.conftest import TIMING
from transport import clock
from transport.answers import Answer
from worker.protocol.errors import ServerDown
from worker.protocol.exchange import Exchange, ExchangeAnswer, Given, Outcome
from worker.protocol.task import Lease, Task
from worker.stock.dispatch import Dispatch
from worker.threads.followers import Followers
from worker.threads.inventory_reporter import InventoryReporter
from worker.threads.lookout import Lookout
from worker.threads.messengers import Contact, Holder
from worker.threads.senders import Sender
from worker.threads.shared import Shared

LEASE = Lease(1, "lease-1", 30.0)
TASK = Task(LEASE, {"model": "llama3", "prompt": "Hi"}, 1, 1000)
DOWN = ServerDown("The Manage Server is not answering.")


class SlowOllama(StubOllama):
    """Does not answer what its models are until it may."""

    def __init__(self) -> None:
        self.is_asked, self.may_answer = threading.Event(), threading.Event()
        super().__init__()

    def answer(self, request: Request) -> Any:
        if request.path == "/api/tags":
            self.is_asked.set()
            self.may_answer.wait(SOON_SECONDS)
        return super().answer(request)


@pytest.fixture
def slow_ollama() -> Iterator[SlowOllama]:
    with SlowOllama() as stub:
        yield stub
        stub.may_answer.set()


@pytest.fixture
def shared(manage: StubManageServer, ollama: StubOllama) -> Shared:
    return Shared(config.Settings(manage_server_url=manage.url, ollama_host=ollama.url), TIMING)


def begin(shared: Shared) -> Dispatch:
    """Let a task begin that came with an exchange."""
    dispatch = Dispatch(shared.exchanger)
    shared.exchanger.set_ollama_up(True)
    dispatch.settle(Exchange(), ExchangeAnswer(given=[Given(TASK, 10.0)]), clock.now(), ())
    assert shared.exchanger.take() is TASK
    return dispatch


def make_holder(shared: Shared, contact: Contact, *answers: Any) -> Holder:
    """Return a holder whose exchanges get these answers, of which some are errors."""
    def exchange(*_: Any, **__: Any) -> Answer:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(200, {}, answer, True)

    waiting: List[Any] = list(answers)
    lookout: Any = SimpleNamespace(
        claim_fields=lambda _: {"models": []}, note=lambda *_: None, look=lambda: None, look_at=0)
    holder = Holder(shared, lookout, contact)
    connection = SimpleNamespace(repeats=0, is_aborted=False, name="It")
    client: Any = SimpleNamespace(exchange=exchange, connection=connection)
    holder.client = client
    return holder


def test_an_outage_is_over_when_the_sender_that_noticed_it_has_nothing_left_to_send(
    shared: Shared
) -> None:
    contact = Contact(begin(shared))
    holder = make_holder(shared, contact, {"lost": [1]}, {})
    sender: Any = Sender(shared, holder.lookout, contact)
    sender.back_off(DOWN)
    holder.exchange(Exchange(running=[LEASE]), clock.now())
    shared.exchanger.end(LEASE)
    holder.exchange(Exchange(), clock.now())
    assert not shared.manage_outage.is_on


def test_an_outage_goes_on_while_the_sender_that_noticed_it_has_something_to_send(
    shared: Shared
) -> None:
    contact = Contact(begin(shared))
    holder = make_holder(shared, contact, {})
    sender: Any = Sender(shared, holder.lookout, contact)
    shared.exchanger.post(LEASE, Outcome(LEASE, b"{}"))
    sender.back_off(DOWN)
    holder.exchange(Exchange(), clock.now())
    assert shared.manage_outage.is_on


def test_after_an_answer_that_could_not_be_read_the_server_takes_back_what_it_gave(
    shared: Shared
) -> None:
    dispatch = Dispatch(shared.exchanger)
    shared.exchanger.set_ollama_up(True)
    holder = make_holder(shared, Contact(dispatch), MemoryError())
    with pytest.raises(MemoryError):
        holder.send_all()
    hold = dispatch.next_hold(25.0)
    assert hold and hold.only_these


def test_after_the_machine_has_slept_a_task_in_advance_is_given_back_and_not_begun(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch = begin(shared)
    next_task = Task(Lease(2, "lease-2", 30.0), {"model": "llama3"}, 1, 1000)
    answer = ExchangeAnswer(given=[Given(next_task, 9.0)])
    dispatch.settle(Exchange(running=[LEASE]), answer, clock.now(), ())
    woke_at = clock.now() + 3600
    monkeypatch.setattr(clock, "now", lambda: woke_at)
    # As a slot does that finds no task.
    monkeypatch.setattr(shared.exchanger._has_task, "wait", shared.exchanger.begin_stop)
    assert shared.exchanger.take() is None
    news = dispatch.next_news()
    assert news and [outcome.lease.task_id for outcome in news.outcomes] == [2]


def test_leases_are_renewed_while_ollama_does_not_say_whether_a_model_was_removed(
    manage: StubManageServer, slow_ollama: SlowOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.threads.lookout.LOOK_SECONDS", 0.05)
    shared = Shared(config.Settings(manage_server_url=manage.url, ollama_host=slow_ollama.url))
    lookout = Lookout(shared)
    begin(shared)
    asking = threading.Thread(target=lookout.has_removed, args=("llama3", ["llama3"]))
    asking.start()
    assert slow_ollama.is_asked.wait(SOON_SECONDS)
    has_looked = threading.Event()
    looking = threading.Thread(target=lambda: (lookout.look(), has_looked.set()))
    looking.start()
    assert has_looked.wait(SOON_SECONDS / 2)
    slow_ollama.may_answer.set()
    asking.join()
    looking.join()


def forbid_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_function_for_which_there_is_no_thread_does_not_count_and_is_not_run_later(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    followers = Followers(lambda: None)
    ran: List[str] = []
    with monkeypatch.context() as context:
        forbid_threads(context)
        with pytest.raises(RuntimeError):
            followers.start(lambda: ran.append("first"))
    assert followers.active == 0
    has_ended = threading.Event()
    followers.start(lambda: (ran.append("second"), has_ended.set()))  # type: ignore[arg-type]
    assert has_ended.wait(SOON_SECONDS)
    followers.wait_for_fewer(1)
    followers.close()
    assert ran == ["second"]


def test_an_inventory_for_which_there_was_no_thread_is_sent_the_next_time(
    manage: StubManageServer, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter: InventoryReporter = shared.reporter
    reporter.claim_fields([{"name": "llama3"}], 1.0)
    with monkeypatch.context() as context:
        forbid_threads(context)
        with pytest.raises(RuntimeError):
            reporter.send_soon()
    reporter.send_soon()
    assert manage.next_inventory()["inventory"]["models"] == [{"name": "llama3"}]
