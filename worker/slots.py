"""The worker: claims tasks, runs them on Ollama, delivers their outcomes, and stops cleanly."""
from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from typing import Any, Dict, Iterator, NamedTuple, Optional

import config
from worker.delivery import deliver
from worker.generation import Generation
from worker.http import ANSWER_TIMEOUT_SECONDS
from worker.manage_client import (
    REQUESTED_LEASE_SECONDS,
    AccessDenied,
    Lease,
    ManageClient,
    ServerDown,
    TaskLost,
)
from worker.ollama import Ollama, OllamaDown, OllamaError
from worker.outage import Outage
from worker.progress import ProgressSender

Json = Dict[str, Any]

log = logging.getLogger(__name__)

MAX_MODELS = 1000


class Timing(NamedTuple):
    """How long the worker waits, in seconds."""

    # Below the 60 seconds after which many proxies cut a silent request.
    claim_wait_seconds: float = 25
    # After an empty answer that came at once, because the server could hold no more requests.
    empty_claim_pause_seconds: float = 2
    # While Ollama writes nothing, a cancelled task is noticed within this time.
    heartbeat_seconds: float = 1.0
    # While Ollama or the Manage Server is unavailable.
    min_pause_seconds: float = 1.0
    max_pause_seconds: float = 10.0
    # When Ollama fails task after task, so that it does not fail the whole queue at once.
    max_failures_pause_seconds: float = 30
    # How long running tasks may go on after `stop` before they are released.
    grace_seconds: float = 20


DEFAULT_TIMING = Timing()


class Worker:
    """Runs `worker_concurrency` tasks at once, each in a slot: a thread that claims the next."""

    def __init__(self, settings: config.Settings, timing: Timing = DEFAULT_TIMING) -> None:
        self._settings = settings
        self._timing = timing
        # Set in this order: claim no more; release what runs.
        self._stopping = threading.Event()
        self._releasing = threading.Event()
        # What `run` waits for: True is a call of `stop`, False a task that has ended.
        self._events: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running_tasks = 0
        self._access_denied: Optional[AccessDenied] = None
        self._ollama_outage = self._outage("Ollama", settings.ollama_host)
        self._manage_outage = self._outage("Manage Server", settings.manage_server_url)

    def run(self) -> None:
        """Run tasks until `stop`; then finish or release those that run. Raises AccessDenied."""
        for _ in range(self._settings.worker_concurrency):
            threading.Thread(target=self._run_slot, daemon=True).start()
        self._wait_for_stop(math.inf)
        self._stopping.set()
        self._wait_for_stop(self._timing.grace_seconds)
        self._releasing.set()
        self._wait_for_stop(ANSWER_TIMEOUT_SECONDS / 3)
        if self._access_denied:
            raise self._access_denied

    def stop(self) -> None:
        """Claim no more tasks; called again, release those that run. Safe in a signal handler."""
        # A signal handler must not take a lock; SimpleQueue.put() is reentrant.
        self._events.put(True)

    def _outage(self, server: str, url: str) -> Outage:
        return Outage(f"{server} at {config.without_password(url)}",
                      self._timing.min_pause_seconds, self._timing.max_pause_seconds)

    def _wait_for_stop(self, seconds: float) -> None:
        """Wait for a call of `stop`; once stopping, also return when no task runs any more."""
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set() or self._running_tasks:
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return
            # On Windows, Python handles a signal only between two waits.
            with contextlib.suppress(queue.Empty):
                if self._events.get(timeout=min(left_seconds, 1.0)):
                    return

    def _run_slot(self) -> None:
        settings = self._settings
        ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds)
        client = ManageClient(settings)
        failures = 0
        while not self._stopping.is_set():
            try:
                failures = failures + 1 if self._claim_and_run(ollama, client) else 0
                pause_seconds = 2 ** failures // 2
                self._stopping.wait(min(self._timing.max_failures_pause_seconds, pause_seconds))
            except OllamaDown:
                self._ollama_outage.back_off("is `ollama serve` running?", self._stopping)
            except ServerDown as error:
                self._manage_outage.back_off(str(error), self._stopping)
            except AccessDenied as error:
                self._access_denied = error
                self.stop()
                return
            except Exception:
                log.exception("unexpected error, please report it; the worker goes on")
                self._stopping.wait(self._timing.max_pause_seconds)

    def _claim_and_run(self, ollama: Ollama, client: ManageClient) -> bool:
        """Claim one task and run it; return whether Ollama failed and may fail the next one."""
        task = self._claim(ollama, client)
        if not task:
            return False
        with self._count_running():
            outcome = self._run_task(task, ollama, client)
        return bool(outcome and (outcome.get("retry") or "release" in outcome))

    def _claim(self, ollama: Ollama, client: ManageClient) -> Json:
        models = ollama.models()
        self._ollama_outage.record_success()
        began_at = time.monotonic()
        task = client.claim({
            "wait": self._timing.claim_wait_seconds,
            "lease": REQUESTED_LEASE_SECONDS,
            "worker": self._settings.worker_name,
            "models": ",".join(models[:MAX_MODELS]),
        })
        self._manage_outage.record_success()
        if not task and time.monotonic() - began_at < 1:
            self._stopping.wait(self._timing.empty_claim_pause_seconds)
        return task

    @contextlib.contextmanager
    def _count_running(self) -> Iterator[None]:
        with self._lock:
            self._running_tasks += 1
        try:
            yield
        finally:
            with self._lock:
                self._running_tasks -= 1
            self._events.put(False)

    def _run_task(self, task: Json, ollama: Ollama, client: ManageClient) -> Optional[Json]:
        """Run a task and deliver its outcome, which is returned; None if the task was lost."""
        lease = _take_lease(task)
        began_at = time.monotonic()
        log.info("task %s: running %s, attempt %s", lease.task_id, task["model"],
                 task.pop("attempt", 1))
        generation = Generation(ollama, task)
        generation.start()
        try:
            outcome = self._follow(generation, lease, client)
        except TaskLost as error:
            log.warning("task %s: dropped: %s", lease.task_id, error)
            return None
        finally:
            generation.stop()
        log.info("task %s: %s", lease.task_id, _describe(outcome, time.monotonic() - began_at))
        body = {"task_id": lease.task_id, "lease_id": lease.lease_id, **outcome}
        deliver(client, body, self._manage_outage, self._releasing)
        return outcome

    def _follow(self, generation: Generation, lease: Lease, client: ManageClient) -> Json:
        """Report progress until there is an outcome. Raises TaskLost."""
        sender = ProgressSender(client, generation, lease)
        seconds = min(self._timing.heartbeat_seconds, lease.seconds / 3)
        while not generation.wait(0 if self._releasing.is_set() else seconds, sender.offset):
            if self._releasing.is_set():
                return {"release": True}
            if lease.lease_id and not self._send_progress(sender):
                generation.wait(seconds)
        return _outcome_of(generation)

    def _send_progress(self, sender: ProgressSender) -> bool:
        """Send one progress request; return False if it helped nothing and the next must wait."""
        try:
            is_kept = sender.send()
        except ServerDown as error:
            self._manage_outage.record_failure(str(error))
            return False
        self._manage_outage.record_success()
        return is_kept


def _take_lease(task: Json) -> Lease:
    """Remove the fields of the lease from a claimed task, which leaves those for Ollama."""
    task_id, lease_id = task.pop("task_id"), task.pop("lease_id", None)
    seconds = float(task.pop("lease_seconds", REQUESTED_LEASE_SECONDS))
    return Lease(task_id, lease_id, min(max(seconds, 1.0), 3600.0))


def _outcome_of(generation: Generation) -> Json:
    try:
        return generation.outcome()
    except OllamaDown:
        return {"release": True}
    except OllamaError as error:
        return {"error": str(error), "retry": error.retry}
    except BaseException as error:
        log.exception("unexpected error, please report it; the task will be retried")
        return {"error": f"The worker failed with {type(error).__name__}.", "retry": True}


def _describe(outcome: Json, seconds: float) -> str:
    if "result" in outcome:
        return f"completed after {seconds:.1f} s"
    if "release" in outcome:
        return f"released after {seconds:.1f} s"
    consequence = ", may be retried" if outcome["retry"] else ""
    return f"failed after {seconds:.1f} s{consequence}: {outcome['error']}"
