"""What keeps requests quick where waitress serves: which thread is next, and what the garbage
collector looks at."""
from __future__ import annotations

import queue
import threading

import pytest

pytest.importorskip("waitress")

from manage.serving.waitress_threads import Dispatcher, LastFirst
from tests.support.processes import ROOT, TIMEOUT_SECONDS, Process, ask

pytestmark = pytest.mark.timeout(60)

SERVER = """
import gc, json, threading
from manage.serving.serve import Options, serve

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    answer = {"thread": threading.get_ident(), "frozen_objects": gc.get_freeze_count()}
    return [json.dumps(answer).encode()]

serve(app, Options("127.0.0.1", 0, 64, 1000), lambda: None)
"""


@pytest.fixture
def lock():
    return threading.Lock()


@pytest.fixture
def condition(lock):
    return LastFirst(lock)


@pytest.fixture
def woken(lock, condition):
    """The names of the threads in the order in which they woke; all three wait at first."""
    names: queue.Queue = queue.Queue()
    for name in ("first", "second", "third"):
        has_lock = threading.Event()

        def wait(name=name, has_lock=has_lock):
            with lock:
                has_lock.set()
                condition.wait()
            names.put(name)

        threading.Thread(target=wait, daemon=True).start()
        assert has_lock.wait(TIMEOUT_SECONDS)
        with lock:  # It is free again once the thread waits.
            pass
    return names


def test_the_thread_that_began_to_wait_last_wakes_first(lock, condition, woken):
    order = []
    for _ in range(3):
        with lock:
            condition.notify()
        order.append(woken.get(timeout=TIMEOUT_SECONDS))
    assert order == ["third", "second", "first"]


def test_all_threads_can_be_woken(lock, condition, woken):
    with lock:
        condition.notify_all()
    assert {woken.get(timeout=TIMEOUT_SECONDS) for _ in range(3)} == {"first", "second", "third"}


def test_a_notification_without_a_waiting_thread_does_nothing(lock, condition):
    with lock:
        condition.notify()
        condition.notify_all()


def test_the_dispatcher_serves_every_task_and_its_threads_end():
    class Task:
        def service(self):
            served.put(self)

        def cancel(self):
            raise AssertionError("a task was not served")

    served: queue.Queue = queue.Queue()
    dispatcher = Dispatcher()
    dispatcher.set_thread_count(4)
    tasks = [Task() for _ in range(100)]
    for task in tasks:
        dispatcher.add_task(task)
    assert {served.get(timeout=TIMEOUT_SECONDS) for _ in tasks} == set(tasks)
    dispatcher.shutdown()
    assert not dispatcher.threads


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SERVER)
    with Process(str(script), environ={"PYTHONPATH": str(ROOT)}) as process:
        yield process


def test_requests_one_after_the_other_do_not_go_through_all_threads(server):
    threads = {ask(server.url(), "GET", "/").body["thread"] for _ in range(64)}
    # On a busy machine, a few may not be idle again when the next request is there.
    assert len(threads) <= 32


def test_the_garbage_collector_skips_what_lives_as_long_as_the_server(server):
    assert ask(server.url(), "GET", "/").body["frozen_objects"] > 10_000
