"""Random histories of every store, compared with a plain model; and random HTTP requests.

They are short and the same each time; ATTACK_EXAMPLES makes them longer and random.
"""
from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import config
import manage_server
from taskstore import (
    ANSWER,
    Claim,
    KeyReused,
    LeaseLost,
    Limits,
    Outcome,
    Piece,
    StoreFull,
    Submission,
    TaskNotFound,
    TextTooLong,
)
from taskstore.tasks import model_key, size_bytes
from tests.support.store_model import FINAL, Lost, Model, ModelTask
from tests.support.stores import FACTORIES, FakeClock

LONG = int(os.environ.get("ATTACK_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=LONG or 60, stateful_step_count=50, derandomize=not LONG, deadline=None,
    database=None, suppress_health_check=list(HealthCheck),
)

OWNERS = st.sampled_from(["", "alice", "bob"])
HOLDERS = st.sampled_from(["", "gpu-1", "gpu-2"])
MODELS = st.sampled_from(["a", "a:latest", "b", "c:1"])
SOME_MODELS = st.none() | st.frozensets(MODELS.map(model_key))
SECONDS = st.sampled_from([0.0, 0.0, 1.0, 5.0, 50.0])
TEXTS = st.sampled_from(["", "x", "the answer", "\U0001f600" * 50, "y" * 3000])


class Histories(RuleBasedStateMachine):
    """A store, and the model that it is compared with."""

    factory = FACTORIES["memory"]
    tight = False

    @initialize(max_attempts=st.integers(1, 3))
    def open(self, max_attempts):
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.limits = Limits(
            max_attempts=max_attempts, max_queued_tasks=8, max_queued_tasks_per_user=5,
            max_store_bytes=14_000 if self.tight else 10_000_000, result_ttl_seconds=100.0,
        )
        self.store = type(self).factory(self.limits, self.clock, Path(self.folder.name))
        self.model = Model(max_attempts, 100.0)
        self.finals = {}
        self.lease_ids = []
        self.last_claims = []

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def any_id(self, data):
        return data.draw(st.integers(1, self.model.last_id + 1), label="task_id")

    def any_task(self, data):
        """Draw a task, often a running one, and a lease_id, often the right one."""
        running = [t.task_id for t in self.model.tasks.values() if t.state == "running"]
        ids = st.integers(1, self.model.last_id + 1)
        task_id = data.draw(st.sampled_from(running) | ids if running else ids, label="task_id")
        task = self.model.tasks.get(task_id)
        right = [task.lease_id] * 3 if task else []
        return task, data.draw(st.sampled_from([*right, "", "none", *self.lease_ids[-3:]]))

    def sizes(self):
        """Return the bytes of unfinished tasks by owner, and those of all finished tasks."""
        unfinished, finished = {}, 0
        for task_id, task in self.model.tasks.items():
            size = size_bytes(self.store.get(task_id, owner=task.owner).task)
            if task.is_final:
                finished += size
            else:
                unfinished[task.owner] = unfinished.get(task.owner, 0) + size
        return unfinished, finished

    def expect(self, expected, call):
        """Check that the store raises LeaseLost exactly when the model does."""
        try:
            expected()
        except Lost:
            with pytest.raises(LeaseLost):
                call()
            return None
        return call()

    @rule(owner=OWNERS, model=MODELS, size=st.sampled_from([10, 500, 6000, 6000]), ttl=SECONDS,
          timeout=SECONDS, key=st.sampled_from(["", "", "k1", "k2"]))
    def submit(self, owner, model, size, ttl, timeout, key):
        now, content = self.clock(), (model, size, ttl, timeout)
        old = self.model.find_by_key(owner, key)

        def call():
            return self.store.submit(Submission(model, b"x" * size, owner, ttl, timeout, key))

        if old is not None and old.content != content:
            with pytest.raises(KeyReused):
                call()
        elif old is not None:
            assert call().task_id == old.task_id
        else:
            before = self.sizes()
            try:
                task = call()
            except StoreFull:
                assert self.is_full(owner, size, before)
                return
            assert self.model.count("queued") < self.limits.max_queued_tasks
            assert not owner or self.model.count("queued", owner) < 5
            assert task.task_id == self.model.last_id + 1
            self.model.last_id = task.task_id
            new = self.model.tasks[task.task_id] = ModelTask(task.task_id, owner, model, now)
            new.key, new.content, new.timeout = key, content, timeout
            new.start_by = now + ttl if ttl else 0.0
            self.drop_forgotten()
            unfinished, finished = self.sizes()
            assert sum(unfinished.values()) + finished <= self.limits.max_store_bytes

    def is_full(self, owner, size, before):
        unfinished, _ = before
        size += 2000
        texts = sum(5000 + 8 * len(task.text) for task in self.model.tasks.values() if task.text)
        most = self.limits.max_store_bytes
        return (
            self.model.count("queued") >= self.limits.max_queued_tasks
            or (owner and self.model.count("queued", owner) >= 5)
            or (owner and unfinished.get(owner, 0) + size > most // 2)
            or sum(unfinished.values()) + texts + size > most
        )

    @rule(worker=st.sampled_from(["w1", "w2"]), models=SOME_MODELS, holder=HOLDERS,
          lease=st.sampled_from([1.0, 10.0, 30.0]))
    def claim(self, worker, models, holder, lease):
        now = self.clock()
        ready = [task for task in self.model.tasks.values()
                 if task.state == "queued" and task.not_before <= now]
        others = [claim for claim in self.last_claims if claim[0] != worker]
        self.last_claims = [*others, (worker, models, now)]
        claimed = self.store.claim(Claim(worker, models, lease, holder=holder))
        if claimed is None:
            assert not [t for t in ready if models is None or model_key(t.model) in models]
            return
        task = self.model.tasks[claimed.task_id]
        assert task in ready
        assert models is None or self.may_have(task, models, now)
        older = [t for t in ready if t.owner == task.owner and t.task_id < task.task_id]
        assert not [t for t in older if models is None or model_key(t.model) in models]
        assert claimed.lease_id not in self.lease_ids
        self.lease_ids.append(claimed.lease_id)
        task.claim(claimed.lease_id, holder, lease, now)

    def may_have(self, task, models, now):
        """Whether the worker has the model, or no worker does that claimed in the last 30 s."""
        key = model_key(task.model)
        return key in models or not any(
            at > now - 30 and (has is None or key in has) for _, has, at in self.last_claims
        )

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), result=TEXTS, thinking=TEXTS, holder=HOLDERS)
    def complete(self, data, result, thinking, holder):
        task, lease_id = self.any_task(data)
        if task is not None:
            def expected():
                task.check(lease_id, holder)
                task.complete(result, self.clock())

            self.expect(expected, lambda: self.store.finish(
                task.task_id, Outcome(result, thinking), lease_id, holder))
            self.drop_forgotten(but=task.task_id)

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), retry=st.booleans(), holder=HOLDERS)
    def fail(self, data, retry, holder):
        task, lease_id = self.any_task(data)
        if task is not None:
            def expected():
                task.check(lease_id, holder)
                task.fail(retry, self.clock(), self.limits.max_attempts)

            self.expect(expected, lambda: self.store.fail(
                task.task_id, "It broke.", retry, lease_id, holder))
            self.drop_forgotten(but=task.task_id)

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), holder=HOLDERS)
    def release(self, data, holder):
        task, lease_id = self.any_task(data)
        if task is not None:
            def expected():
                task.check(lease_id, holder)
                task.release(self.clock(), self.limits.max_attempts)

            self.expect(expected, lambda: self.store.release(task.task_id, lease_id, holder))

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), holder=HOLDERS, text=TEXTS, before=st.sampled_from([0, 0, 0, -1, 3]))
    def append(self, data, holder, text, before):
        task, lease_id = self.any_task(data)
        if task is not None:
            offset = max(0, len(task.text) - before)
            length = []

            def expected():
                task.check(lease_id, holder)
                length.append(task.append(offset, text, self.clock()))

            before = task.text
            pieces = [Piece(ANSWER, text)] if text else []
            try:
                answer = self.expect(expected, lambda: self.store.append(
                    task.task_id, lease_id, offset, pieces, holder))
                assert answer is None or answer == (task.lease_seconds, length[0])
            except TextTooLong:
                assert self.tight
                task.text = before  # The lease is renewed nevertheless.
            self.drop_forgotten()

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), owner=OWNERS)
    def cancel(self, data, owner):
        task_id = self.any_id(data)
        task = self.model.tasks.get(task_id)
        if task is None or task.owner != owner:
            with pytest.raises(TaskNotFound):
                self.store.cancel(task_id, owner)
        else:
            self.store.cancel(task_id, owner)
            if task.state in ("completed", "failed"):
                del self.model.tasks[task_id]
            elif not task.is_final:
                task.finish("cancelled", self.clock())

    @rule(text=TEXTS, result=TEXTS, owner=OWNERS)
    def submit_append_and_complete(self, text, result, owner):
        """Make a sequence of moves that chance seldom produces."""
        now = self.clock()
        self.submit(owner, "a", 10, 0.0, 0.0, "")
        task = self.model.tasks.get(self.model.last_id)
        if task is None or task.state != "queued":
            return
        self.claim("w1", None, "", 30.0)
        task = next((t for t in self.model.tasks.values()
                     if t.state == "running" and t.started_at == now and not t.text), None)
        if task is not None:
            pieces = [Piece(ANSWER, text)] if text else []
            try:
                self.store.append(task.task_id, task.lease_id, 0, pieces)
            except TextTooLong:
                assert self.tight
            self.store.complete(task.task_id, result, task.lease_id)
            task.complete(result, now)
            self.drop_forgotten(but=task.task_id)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 9.0, 29.0, 31.0, 60.0, 101.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)
        self.model.age(self.clock())

    def drop_forgotten(self, but=0):
        """Drop the final tasks that the store has forgotten: only if it is full, oldest first."""
        finals = sorted((t for t in self.model.tasks.values() if t.is_final),
                        key=lambda t: t.finished_at)
        kept_since = None
        for task in finals:
            try:
                self.store.get(task.task_id, owner=task.owner)
                kept_since = task.finished_at if kept_since is None else kept_since
            except TaskNotFound:
                assert self.tight and task.task_id != but
                assert kept_since is None or task.finished_at <= kept_since
                del self.model.tasks[task.task_id]

    @invariant()
    def store_equals_model(self):
        if not hasattr(self, "model"):
            return
        self.model.age(self.clock())
        self.store.status()
        self.drop_forgotten()
        status = self.store.status()
        assert status.queued == self.model.count("queued")
        assert status.running == self.model.count("running")
        assert status.finished == sum(map(self.model.count, FINAL))
        for task_id in range(1, self.model.last_id + 1):
            self.check_task(task_id, self.model.tasks.get(task_id))

    def check_task(self, task_id, expected):
        if expected is None:
            with pytest.raises(TaskNotFound):
                self.store.get(task_id, owner=self.finals[task_id].owner
                               if task_id in self.finals else "")
            return
        with pytest.raises(TaskNotFound):
            self.store.get(task_id, owner=expected.owner + "!")
        snapshot = self.store.get(task_id, owner=expected.owner)
        task = snapshot.task
        assert task.state == expected.state
        assert task.attempt == expected.attempt <= self.limits.max_attempts
        if expected.is_final:
            assert self.finals.setdefault(task_id, task) == task
            assert expected.result in (None, task.result)
        elif expected.state == "running":
            assert (task.lease_id, task.expires_at) == (expected.lease_id, expected.expires_at)
            assert snapshot.text == expected.text
        else:
            assert 0 <= snapshot.queue_position <= len(self.model.tasks)


@pytest.mark.parametrize("tight", [False, True], ids=["roomy", "tight"])
@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_in_any_history_the_store_follows_the_rules(name, tight, request):
    if name == "redis":
        request.getfixturevalue("redis_server")
    machine = type("Machine", (Histories,), {
        "factory": staticmethod(FACTORIES[name]), "tight": tight,
    })
    # Each move takes longer on disk and over a socket.
    examples = LONG or (60 if name == "memory" else 10)
    run_state_machine_as_test(machine, settings=settings(PROFILE, max_examples=examples))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([2**63, -1, 1e308, "\ud800", "", "\0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from([
    "prompt", "model", "options", "format", "context", "images", "keep_alive", "think", "task_id",
    "result", "error", "retry", "release", "lease_id", "offset", "text", "thinking", "metrics",
    "ttl_seconds", "timeout_seconds", "stream", "?",
])
BODIES = st.dictionaries(FIELDS, JSON | st.sampled_from([1, "x", True]), max_size=5)
PATHS = st.sampled_from([
    "/submit", "/task", "/task/1/progress", "/result/1", "/result/1/stream", "/result/\u0661",
    "/status", "/healthz", "/result/99999999999999999999", "/nothing", "/task/x/progress",
])
METHODS = st.sampled_from(["GET", "POST", "POST", "DELETE", "PUT", "OPTIONS", "PATCH"])
ARGS = st.dictionaries(st.sampled_from(["wait", "worker", "lease", "models"]),
                       st.sampled_from(["0", "-1", "nan", "1e999", "", "a,b", "\0"]), max_size=3)


@given(requests=st.lists(st.tuples(METHODS, PATHS, ARGS, BODIES | JSON), max_size=20))
@PROFILE
def test_the_answer_to_any_request_is_json_and_never_5xx(requests):
    app = manage_server.create_app(dataclasses.replace(config.Settings(), max_wait_seconds=0.0))
    client = app.test_client()
    for method, path, args, body in requests:
        answer = client.open(path, method=method, query_string=args, json=body)
        assert answer.status_code < 500
        if answer.mimetype == "text/event-stream":
            answer.close()
        elif method != "OPTIONS":
            is_error = answer.status_code >= 400
            assert (set(answer.get_json()) == {"error"}) == is_error
