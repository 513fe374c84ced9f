"""Figures of this server for Prometheus; this module knows no routes.

What happens is counted in this process. What is there now is read from the store when somebody
asks. Nothing of it costs more with a longer queue.

Source of names and units: https://prometheus.io/docs/practices/naming/
"""
from __future__ import annotations

import importlib
import threading
import time
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Set, Tuple

from manage.errors import NotInstalled
from taskstore import Task, TaskStore, TaskStoreError
from taskstore.names import model_key
from taskstore.snapshots import figures
from taskstore.task import CANCELLED, COMPLETED, FAILED, QUEUED, RUNNING

try:
    prometheus: Any = importlib.import_module("prometheus_client")
    families: Any = importlib.import_module("prometheus_client.core")
except ImportError:
    prometheus = None

# A user can name any model. Those that workers have are told apart, up to this number.
MAX_MODELS = 200
OTHER_MODELS = "other"
# How long it may take until a new model of a worker is told apart.
REFRESH_SECONDS = 10.0
# From a short prompt on a large GPU to a long one that waits for the night.
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


class Exposition(NamedTuple):
    """The answer to a scrape."""

    content: bytes
    content_type: str


class Metrics:
    """Counts moves, and answers scrapes. Without prometheus_client, it does nothing."""

    def __init__(self, store: TaskStore, count_held: Callable[[], int]) -> None:
        """`count_held` returns how many requests are held open."""
        self._models = ModelLabels(store)
        self._counters: Optional[_Counters] = None
        if prometheus is not None:
            # Else each counter comes with a second line for the time when it was made.
            getattr(prometheus, "disable_created_metrics", lambda: None)()
            self._registry = prometheus.CollectorRegistry()
            prometheus.ProcessCollector(registry=self._registry)
            self._registry.register(_Gauges(store, self._models, count_held))
            self._counters = _Counters(self._registry)

    def count_move(self, old: Optional[Task], new: Task) -> None:
        """Count what happened to a task; `old` is None for a new one."""
        if self._counters is not None:
            self._counters.count_move(old, new, self._models)

    def count_first_piece(self, renewed: Task) -> None:
        """Count the time until the answer to a task began, whose lease has just been renewed."""
        # Another attempt begins an answer that has begun before.
        if self._counters is not None and renewed.attempt == 1:
            now = renewed.expires_at - renewed.lease_seconds
            self._counters.first_piece.observe(max(0.0, now - renewed.submitted_at))

    @property
    def is_on(self) -> bool:
        return self._counters is not None

    def scrape(self, accept: str) -> Exposition:
        """Return all figures, in the format that fits the header Accept.

        Raises NotInstalled and StoreDown.
        """
        if self._counters is None:
            raise NotInstalled("prometheus-client")
        try:
            encode, content_type = prometheus.exposition.choose_encoder(accept)
        except (TypeError, ValueError):  # Accept asks for a version that is no number.
            encode, content_type = prometheus.exposition.choose_encoder("")
        return Exposition(encode(self._registry), content_type)


class ModelLabels:
    """The full names of the models that workers have or had, as labels."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._had: Set[str] = set()
        self._used: Set[str] = set()
        self._read_at = -REFRESH_SECONDS

    def label(self, model: str) -> str:
        """Return the name of a model, or OTHER_MODELS for one that no worker has."""
        key = model_key(model)
        with self._lock:
            if key in self._used:
                return key
            is_stale = key not in self._had and (
                time.monotonic() - self._read_at >= REFRESH_SECONDS)
        if is_stale:
            self._refresh()
        with self._lock:
            if key not in self._had or len(self._used) >= MAX_MODELS:
                return OTHER_MODELS
            self._used.add(key)
            return key

    def used(self) -> List[str]:
        with self._lock:
            return sorted(self._used)

    def _refresh(self) -> None:
        try:
            workers = self._store.status().workers
        except TaskStoreError:
            return
        with self._lock:
            self._had = {model for worker in workers for model in worker.models or ()}
            self._read_at = time.monotonic()


class _Counters:
    """What has happened since this process began."""

    def __init__(self, registry: Any) -> None:
        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str) -> Any:
            return prometheus.Histogram(name, text, registry=registry, buckets=BUCKETS)

        self._submitted = counter("llm_tasks_submitted_total", "Tasks submitted.")
        self._ended = {
            COMPLETED: counter("llm_tasks_completed_total", "Tasks completed."),
            FAILED: counter("llm_tasks_failed_total", "Tasks failed for good."),
            CANCELLED: counter("llm_tasks_cancelled_total",
                               "Tasks cancelled, by their user or because their client hung up."),
        }
        self._retried = counter("llm_tasks_retried_total",
                                "Attempts that failed and were followed by another.")
        self._waiting = histogram("llm_task_waiting_seconds",
                                  "Time from the submission of a task to its first attempt.")
        self._running = histogram("llm_task_running_seconds",
                                  "Time of the attempt that completed a task.")
        self.first_piece = histogram(
            "llm_task_first_piece_seconds",
            "Time from the submission of a task to the first piece of an answer sent in pieces.")
        self._prompt_tokens = counter("llm_prompt_tokens_total",
                                      "Tokens in the prompts of completed tasks.", "model")
        self._answer_tokens = counter("llm_answer_tokens_total",
                                      "Tokens in the answers to completed tasks.", "model")

    def count_move(self, old: Optional[Task], new: Task, models: ModelLabels) -> None:
        if old is None:
            self._submitted.inc()
        elif new.state in self._ended and old.state not in self._ended:
            self._ended[new.state].inc()
            if new.state == COMPLETED:
                self._count_completion(new, models)
        elif new.state == RUNNING and not old.started_at:
            # A task that was released has started before.
            self._waiting.observe(max(0.0, new.started_at - new.submitted_at))
        elif (old.state, new.state) == (RUNNING, QUEUED) and new.attempt >= old.attempt:
            self._retried.inc()

    def _count_completion(self, task: Task, models: ModelLabels) -> None:
        if task.started_at:
            self._running.observe(max(0.0, task.finished_at - task.started_at))
        used, label = figures(task), models.label(task.model)
        self._prompt_tokens.labels(label).inc(used.prompt_tokens)
        self._answer_tokens.labels(label).inc(used.answer_tokens)


class _Gauges:
    """What is there now; prometheus_client calls `collect` for each scrape."""

    def __init__(
        self, store: TaskStore, models: ModelLabels, count_held: Callable[[], int]
    ) -> None:
        self._store = store
        self._models = models
        self._count_held = count_held

    def describe(self) -> List[Any]:
        """Without this, `collect` would be called when it is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        queued, running = self._tasks_by_model()
        yield _gauge("llm_tasks_queued", "Tasks that wait for a worker.", queued)
        yield _gauge("llm_tasks_running", "Tasks that a worker runs.", running)
        status = self._store.status()
        yield _gauge("llm_tasks_kept", "Finished tasks that are still kept.", status.finished)
        yield _gauge("llm_workers_connected", "Workers that are connected.",
                     sum(worker.connected for worker in status.workers))
        yield _gauge("llm_requests_held", "Requests that this process holds open.",
                     self._count_held())
        yield _gauge("llm_store_bytes", "Size of all tasks and texts in the store.",
                     self._store.size_bytes())
        yield _gauge("llm_store_max_bytes", "The limit for llm_store_bytes (MAX_STORE_BYTES).",
                     self._store.limits.max_store_bytes)

    def _tasks_by_model(self) -> Tuple[Any, Any]:
        queued, running = {OTHER_MODELS: 0}, {OTHER_MODELS: 0}
        for counts in self._store.counts():
            label = self._models.label(counts.model)
            queued[label] = queued.get(label, 0) + counts.queued
            running[label] = running.get(label, 0) + counts.running
        # A model without tasks has none: its series goes on.
        for label in self._models.used():
            queued.setdefault(label, 0)
            running.setdefault(label, 0)
        return queued, running


def _gauge(name: str, text: str, value: Any) -> Any:
    """A gauge with one value, or with a value for each model."""
    labels = ["model"] if isinstance(value, dict) else None
    family = families.GaugeMetricFamily(name, text, labels=labels)
    for model, number in sorted(value.items()) if labels else [(None, value)]:
        family.add_metric([model] if labels else [], number)
    return family
