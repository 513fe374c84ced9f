"""What stands between worker and Manage Server decides nothing; a refused token drops nothing."""
from __future__ import annotations

import gzip
from typing import Any, Callable, Iterator, List

import pytest

from tests.support.log_lines import LogLines
from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import MARKER, Call, StubManageServer, StubOllama
from transport.streams import MAX_ANSWER_BYTES
from worker.protocol.errors import AccessDenied, ServerDown

MakeWorker = Callable[..., RunningWorker]
UNMARKED: Any = {}
STATUSES = (200, 204, 302, 400, 401, 403, 404, 405, 407, 408, 409, 413, 418, 429, 500, 502, 503)
INGRESS: List[Any] = [(status, {"error": "No such backend."}, UNMARKED) for status in STATUSES]
INGRESS += [(200, {}, UNMARKED), (200, "<html>", UNMARKED), (404, "<html>", UNMARKED)]
DENIED = 401, {"error": "This token is not known, or no longer."}


def start_task(ollama: StubOllama, manage: StubManageServer) -> Call:
    manage.submit(lease_seconds=0.3)
    call = ollama.next_call()
    call.write({"response": "so far", "done": False})
    manage.next_progress()
    return call


def test_an_answer_from_in_between_to_a_claim_is_waited_out(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    # All of them: the exchange, the claim, and the one that a server of the four endpoints knows.
    manage.any_answers.extend(answer for answer in INGRESS for _ in range(3))
    make_worker().start()
    manage.submit()
    manage.submit(2)
    for task_id in (1, 2):
        ollama.next_call().finish()
        assert manage.next_outcome()["task_id"] == task_id
    assert not manage.any_answers


def test_an_answer_from_in_between_to_progress_drops_no_task(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    make_worker(heartbeat_seconds=0.02).start()
    call = start_task(ollama, manage)
    manage.progress_answers.extend(INGRESS)
    manage.wait_until(lambda: not manage.progress_answers)
    call.finish(" and on")
    assert manage.next_outcome()["result"] == "so far and on"


def test_an_answer_from_in_between_to_a_result_loses_nothing(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.outcome_answers.extend(INGRESS)
    manage.submit()
    ollama.next_call().finish()
    assert [manage.next_outcome()["result"] for _ in INGRESS] == ["the answer"] * len(INGRESS)
    assert manage.next_outcome()["result"] == "the answer"
    manage.wait_until(lambda: len(manage.claims) == 2)


def test_a_task_in_hand_is_kept_while_the_token_is_refused(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    call = start_task(ollama, manage)
    manage.progress_answer = DENIED
    for _ in range(3):
        manage.next_progress()
    manage.outcome_answers.extend([DENIED] * 3)
    call.finish()
    assert [manage.next_outcome()["result"] for _ in range(4)] == ["so farthe answer"] * 4
    manage.wait_until(lambda: len(manage.claims) == 2)
    said = [record for record in caplog.records if "denies access" in record.getMessage()]
    assert len(said) == 1


def test_the_pause_after_a_refused_token_grows_to_a_minute_and_no_further(
    make_worker: MakeWorker, manage: StubManageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(min_pause_seconds=1, max_pause_seconds=10, max_denied_pause_seconds=60)
    outage = worker.worker.shared.manage_outage
    now = [1000.0]
    monkeypatch.setattr("worker.protocol.outage.time.monotonic", lambda: now[0])
    monkeypatch.setattr("worker.protocol.outage.random.uniform", lambda low, high: high)
    denied = AccessDenied(manage.url, "Unknown.")
    pauses = []
    for _ in range(20):
        pauses.append(outage.record_failure(denied))
        now[0] += pauses[-1]
    assert pauses == sorted(pauses) and (pauses[0], pauses[-1]) == (1, 60)
    assert outage.record_failure(ServerDown("It is down.")) == 10


def test_a_refused_token_with_a_task_in_hand_does_not_delay_a_stop(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    worker = make_worker(min_pause_seconds=1000, max_denied_pause_seconds=1000,
                         heartbeat_seconds=0.05, grace_seconds=0.01).start()
    manage.progress_answer = DENIED
    start_task(ollama, manage)
    worker.stop()
    assert manage.next_outcome() == {"task_id": 1, "lease_id": "lease-1", "release": True}
    worker.join()


@pytest.fixture
def plain() -> Iterator[StubManageServer]:
    with StubManageServer(is_plain=True) as stub:
        yield stub


def test_a_server_of_the_four_endpoints_is_enough(
    make_worker: MakeWorker, ollama: StubOllama, plain: StubManageServer, caplog: Any
) -> None:
    worker = make_worker(manage_server_url=plain.url, worker_name="gpu-1").start()
    for task_id in (1, 2):
        plain.answer_claim(200, {"task_id": task_id, "prompt": "Hi", "model": "llama3"})
        ollama.next_call().finish()
        assert plain.next_outcome()["task_id"] == task_id
    plain.wait_until(lambda: len(plain.claims) == 3)
    assert plain.claims[0] == {"worker": "gpu-1", "models": "llama3:latest", "lease": "30.0",
                               "wait": "25"}
    assert [path for path, _ in plain.authorizations].count("/task/claim") == 1
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    worker.stop()
    worker.join()


def test_a_url_has_as_many_models_as_there_is_room_for(
    make_worker: MakeWorker, ollama: StubOllama, plain: StubManageServer
) -> None:
    ollama.models = ("a,b", *(f"hf.co/somebody/{number}-ü-GGUF:Q4_K_M" for number in range(1000)))
    make_worker(manage_server_url=plain.url).start()
    plain.wait_until(lambda: plain.claims)
    models = plain.claims[0]["models"].split(",")
    assert 50 < len(models) < 100 and models == list(ollama.models[1:len(models) + 1])


def test_a_server_that_learns_to_claim_is_claimed_from(
    make_worker: MakeWorker, ollama: StubOllama, plain: StubManageServer
) -> None:
    make_worker(manage_server_url=plain.url).start()
    plain.answer_claim(200, {"task_id": 1, "prompt": "Hi", "model": "llama3"})
    ollama.next_call().finish()
    plain.next_outcome()
    plain.wait_until(lambda: len(plain.claims) == 2)
    plain.become_marked()
    for task_id in (2, 3):
        plain.submit(task_id)
        ollama.next_call().finish()
        assert plain.next_outcome()["task_id"] == task_id
    plain.wait_until(lambda: len(plain.claims) == 4)
    assert ["instance" in claim for claim in plain.claims] == [False, False, True, True]


def test_a_compressed_answer_that_would_fill_the_memory_is_waited_out(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, log: LogLines
) -> None:
    bomb = gzip.compress(b" " * (MAX_ANSWER_BYTES + 1), 1)
    manage.answer_claim(200, bomb, {**MARKER, "Content-Encoding": "gzip"})
    make_worker().start()
    assert log.wait_for("a larger answer")
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
