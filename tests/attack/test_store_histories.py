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
    WATCHES,
    Claim,
    KeyReused,
    LeaseId,
    LeaseLost,
    Limits,
    Outcome,
    Piece,
    StoreFull,
    Submission,
    TaskNotFound,
    TextTooLong,
)
from taskstore.names import WorkerId, model_key
from taskstore.task import task_bytes
from tests.support.store_model import FINAL, Lost, Model, ModelTask
from tests.support.stores import FACTORIES, LONG_WAIT_SECONDS, FakeClock

LONG = int(os.environ.get("ATTACK_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=LONG or 60, stateful_step_count=50, derandomize=not LONG, deadline=None,
    database=None, suppress_health_check=list(HealthCheck),
)

OWNERS = st.sampled_from(["", "alice", "bob"])
HOLDERS = st.sampled_from(["", "gpu-1", "gpu-2"])
MODELS = st.sampled_from(["a", "a:latest", "b", "c:1"])
SOME_MODELS = st.frozensets(MODELS.map(model_key))
WORKERS = st.sampled_from(["w1", "w2"])
LEASES = st.sampled_from([1.0, 10.0, 30.0, 200.0])
INSTANCES = st.sampled_from(["", "i1", "i2"])
SECONDS = st.sampled_from([0.0, 0.0, 1.0, 5.0, 50.0])
TEXTS = st.sampled_from(["", "x", "the answer", "\U0001f600" * 50, "y" * 3000])


class Histories(RuleBasedStateMachine):
    """A store, and the model that it is compared with."""

    factory = FACTORIES["memory"]
    tight = False

    @initialize(max_attempts=st.integers(1, 3), any_models=st.booleans())
    def open(self, max_attempts, any_models):
        self.any_models = any_models
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

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def any_id(self, data):
        return data.draw(st.integers(1, self.model.last_id + 1), label="task_id")

    def any_task(self, data):
        """Draw a task, often a running one, and a lease_id, often the right one."""
        running = [t.task_id for t in self.model.tasks.values()
                   if t.state == "running" or t.reservation]
        ids = st.integers(1, self.model.last_id + 1)
        task_id = data.draw(st.sampled_from(running) | ids if running else ids, label="task_id")
        task = self.model.tasks.get(task_id)
        right = [task.lease_id] * 3 if task else []
        return task, data.draw(st.sampled_from([*right, "", "none", *self.lease_ids[-3:]]))

    def sizes(self):
        """Return the bytes of unfinished tasks by owner, and those of all finished tasks."""
        unfinished, finished = {}, 0
        for task_id, task in self.model.tasks.items():
            size = task_bytes(self.store.get(task_id, owner=task.owner).task)
            if task.is_final:
                finished += size
            else:
                unfinished[task.owner] = unfinished.get(task.owner, 0) + size
        return unfinished, finished

    def expect(self, task, expected, call):
        """Check that the store raises LeaseLost exactly when the model does."""
        try:
            expected()
        except Lost:
            with pytest.raises(LeaseLost):
                call()
            return None
        self.model.contact(task, self.clock())
        return call()

    @rule(owner=OWNERS, model=MODELS | st.just("nowhere"),
          size=st.sampled_from([10, 500, 6000, 6000]), ttl=SECONDS, timeout=SECONDS,
          key=st.sampled_from(["", "", "k1", "k2"]))
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
            assert self.model.may_queue(owner, 8, 5)
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
        own, all_bytes = unfinished.get(owner, 0), sum(unfinished.values())
        return (
            not self.model.may_queue(owner, 8, 5)
            or ((owner or set(unfinished) - {owner}) and own + size > (most - all_bytes + own) // 2)
            or all_bytes + texts + size > most
        )

    @rule(worker=WORKERS, instance=INSTANCES, models=SOME_MODELS, holder=HOLDERS,
          lease=LEASES)
    def claim(self, worker, instance, models, holder, lease):
        if self.any_models and "c:1" in models:
            models = None
        now = self.clock()
        identity = self.identity(worker, instance, models, holder)
        ready = self.ready(models)
        # What other workers have prefetched is next.
        others = [task for task in self.model.reserved(now)
                  if task.worker != identity and (models is None or task.key_of_model in models)]
        self.model.claims(identity, models, now)
        claimed = self.store.claim(Claim(worker, models, lease, holder, instance=instance))
        if claimed is None:
            assert not ready and not others
            return
        task = self.model.tasks[claimed.task_id]
        assert task == others[0] if others else self.is_next(task, ready)
        self.note(claimed)
        task.claim(identity, claimed.lease_id, holder, lease, now)

    @rule(worker=WORKERS, instance=INSTANCES, models=SOME_MODELS, holder=HOLDERS,
          lease=LEASES, most=st.integers(1, 3))
    def prefetch(self, worker, instance, models, holder, lease, most):
        now = self.clock()
        identity = self.identity(worker, instance, models, holder)
        ready = self.ready(models)
        count = sum(task.worker == identity for task in self.model.reserved(now))
        self.model.claims(identity, models, now)
        found = self.store.claim(Claim(
            worker, models, lease, holder, instance=instance, max_prefetched=most))
        if found is None:
            assert not ready or count >= most
            return
        task = self.model.tasks[found.task_id]
        assert count < most and self.is_next(task, ready)
        self.note(found)
        task.prefetch(identity, found.lease_id, holder, lease, now, len(self.lease_ids))

    def ready(self, models):
        now = self.clock()
        return [task for task in self.model.tasks.values() if task.is_ready(now)
                and (models is None or task.key_of_model in models)]

    def is_next(self, task, ready):
        return task in ready and task.task_id == min(
            other.task_id for other in ready if other.owner == task.owner)

    def note(self, claimed):
        assert claimed.lease_id not in self.lease_ids
        self.lease_ids.append(claimed.lease_id)

    def identity(self, worker, instance, models, holder):
        return holder, worker, instance or models

    @rule(worker=WORKERS, instance=INSTANCES, holder=HOLDERS)
    def leave(self, worker, instance, holder):
        self.store.leave(worker, instance, holder)
        for identity in list(self.model.workers):
            is_meant = identity[2] == instance if instance else not isinstance(identity[2], str)
            if identity[:2] == (holder, worker) and is_meant:
                self.model.leave(identity, self.clock())
        self.drop_forgotten(exactly=False)

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), result=TEXTS, thinking=TEXTS, holder=HOLDERS)
    def complete(self, data, result, thinking, holder):
        task, lease_id = self.any_task(data)
        if task is not None:
            def expected():
                task.check(lease_id, holder)
                task.start(lease_id, self.clock())
                task.complete(result, self.clock())

            self.expect(task, expected, lambda: self.store.finish(
                task.task_id, Outcome(result, thinking), lease_id, holder))
            self.drop_forgotten(but=task.task_id)

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), retry=st.booleans(), holder=HOLDERS)
    def fail(self, data, retry, holder):
        task, lease_id = self.any_task(data)
        if task is not None:
            def expected():
                task.check(lease_id, holder)
                task.start(lease_id, self.clock())
                task.fail(retry, self.clock(), self.limits.max_attempts)

            self.expect(task, expected, lambda: self.store.fail(
                task.task_id, "It broke.", retry, lease_id, holder))
            self.drop_forgotten(but=task.task_id)

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), holder=HOLDERS, reason=st.sampled_from(["", "Busy."]))
    def release(self, data, holder, reason):
        task, lease_id = self.any_task(data)
        if task is not None:
            def expected():
                task.check(lease_id, holder)
                task.release(self.clock(), self.limits.max_attempts, reason, lease_id)

            self.expect(task, expected, lambda: self.store.release(
                task.task_id, lease_id, holder, reason))

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), holder=HOLDERS, text=TEXTS, before=st.sampled_from([0, 0, 0, -1, 3]))
    def append(self, data, holder, text, before):
        task, lease_id = self.any_task(data)
        if task is not None:
            offset = max(0, len(task.text) - before)
            length = []

            def expected():
                task.check(lease_id, holder)
                task.start(lease_id, self.clock())
                length.append(task.append(offset, text, self.clock()))

            before = "" if task.reservation else task.text
            pieces = [Piece(ANSWER, text)] if text else []
            try:
                answer = self.expect(task, expected, lambda: self.store.append(
                    task.task_id, lease_id, offset, pieces, holder))
                assert answer is None or answer == (task.lease_seconds, length[0])
            except TextTooLong:
                assert self.tight
                task.text = before  # The lease is renewed nevertheless.
            self.drop_forgotten()

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), holder=HOLDERS, is_renewal=st.booleans())
    def check_leases(self, data, holder, is_renewal):
        """Renew several leases at once, or only ask which are lost."""
        drawn = [(task, lease_id or "none") for task, lease_id in
                 (self.any_task(data) for _ in range(2)) if task is not None]
        leases = [LeaseId(task.task_id, lease_id) for task, lease_id in drawn]
        lost = [task.task_id for task, lease_id in drawn if task.is_lost(lease_id, holder)]
        if not is_renewal:
            assert self.store.lost_leases(leases, holder) == lost
            return
        assert self.store.renew_all(leases, holder) == lost
        for task, lease_id in drawn:
            if not task.is_lost(lease_id, holder):
                task.start(lease_id, self.clock())
                task.renew(self.clock())
                self.model.contact(task, self.clock())
        self.drop_forgotten()

    @precondition(lambda self: self.model.last_id)
    @rule(data=st.data(), worker=WORKERS, instance=st.sampled_from(["i1", "i2"]),
          models=SOME_MODELS, holder=HOLDERS, lease=LEASES, idle=st.booleans(),
          most=st.integers(0, 3))
    def exchange(self, data, worker, instance, models, holder, lease, idle, most):
        """Do all that an exchange does, in its order."""
        self.store.end_claims(WorkerId(holder, worker, instance))
        if data.draw(st.booleans(), label="completes"):
            self.complete(data, "the answer", "", holder)
        self.check_leases(data, holder, True)
        # A renewal may come after the end of a task's time, and the next verb fails the task.
        self.model.age(self.clock())
        self.check_leases(data, holder, False)
        if idle:
            self.claim(worker, instance, models, holder, lease)
        if most:
            self.prefetch(worker, instance, models, holder, lease, most)
        self.watch_a_lost_lease(data, worker, instance, holder)

    def watch_a_lost_lease(self, data, worker, instance, holder):
        """A claim with one does not wait, and gets nothing; it is a sign of life, though."""
        watched = LeaseId(self.any_id(data), "none")
        self.model.claims((holder, worker, instance), frozenset(), self.clock())
        assert self.store.claim(Claim(
            worker, frozenset(), 30.0, holder, instance=instance, max_prefetched=WATCHES,
            watched=(watched,), replaces=True), LONG_WAIT_SECONDS) is None

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

    @rule(text=TEXTS, result=TEXTS, owner=OWNERS, lease=LEASES,
          end=st.sampled_from(["complete", "fail", "fail again", "go on", "go on"]))
    def submit_append_and_finish(self, text, result, owner, lease, end):
        """Make a sequence of moves that chance seldom produces."""
        now = self.clock()
        self.submit(owner, "a", 10, 0.0, 0.0, "")
        task = self.model.tasks.get(self.model.last_id)
        if task is None or task.state != "queued":
            return
        self.claim("w1", "i1", frozenset(["a:latest"]), "", lease)
        task = next((t for t in self.model.tasks.values()
                     if t.state == "running" and t.started_at == now and not t.text), None)
        if task is None:
            return
        pieces = [Piece(ANSWER, text)] if text else []
        try:
            self.store.append(task.task_id, task.lease_id, 0, pieces)
            task.text = text
        except TextTooLong:
            assert self.tight
        task.renew(now)
        self.model.contact(task, now)
        self.drop_forgotten()
        if end == "complete":
            self.store.complete(task.task_id, result, task.lease_id)
            task.complete(result, now)
        elif end != "go on":
            self.store.fail(task.task_id, "It broke.", end == "fail again", task.lease_id)
            task.fail(end == "fail again", now, self.limits.max_attempts)
        self.drop_forgotten(but=task.task_id)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 9.0, 29.0, 31.0, 60.0, 101.0]))
    def time_passes(self, seconds):
        while seconds > 0:
            self.clock.advance(min(seconds, 1.0))
            seconds -= 1.0
            self.model.age(self.clock())
            self.store.status()
            self.drop_forgotten(exactly=False)

    def drop_forgotten(self, but=0, exactly=True):
        """Drop the final tasks that the store has forgotten: only if it is full, and always the
        oldest of the owner whose finished tasks take most, if that can be told `exactly`."""
        finals = [t for t in self.model.tasks.values() if t.is_final]
        kept, forgotten, sizes = [], [], {}
        for task in finals:
            try:
                sizes[task.task_id] = task_bytes(
                    self.store.get(task.task_id, owner=task.owner).task)
                kept.append(task)
            except TaskNotFound:
                assert self.tight and task.task_id != but
                forgotten.append(task)
                if task.task_id in self.finals:
                    sizes[task.task_id] = task_bytes(self.finals[task.task_id])
        for task in forgotten:
            assert not [t for t in kept if t.owner == task.owner
                        and t.finished_at < task.finished_at]
            del self.model.tasks[task.task_id]
        left = set(forgotten)
        while exactly and left and len(sizes) == len(finals):
            totals = {}
            for task in finals:
                if task in left or task in kept:
                    totals[task.owner] = totals.get(task.owner, 0) + sizes[task.task_id]
            greatest = max((size, owner) for owner, size in totals.items())[1]
            assert greatest in {task.owner for task in left}
            left.remove(min((t for t in left if t.owner == greatest),
                            key=lambda t: (t.finished_at, t.task_id)))

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
        self.check_workers(status.workers)
        for task_id in range(1, self.model.last_id + 1):
            self.check_task(task_id, self.model.tasks.get(task_id))

    def check_workers(self, rows):
        now = self.clock()
        connected = self.model.connected(now)
        assert sorted(row.worker for row in rows if row.connected) == sorted(
            f"{holder}/{name}" if holder else name for holder, name, _ in connected)
        labels = {one[:2] for one in self.model.workers} - {one[:2] for one in connected}
        assert len(rows) == len(connected) + len(labels)
        for row in rows:
            assert row.last_seen_seconds in {
                now - worker.seen_at for worker in self.model.workers.values()}

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
            assert snapshot.lease_expires_seconds == expected.expires_at - self.clock()
            assert snapshot.text == expected.text
        else:
            reserved = self.model.reserved(self.clock())
            if expected in reserved:
                assert snapshot.queue_position == reserved.index(expected) + 1
            assert task.is_prefetched == bool(expected.reservation)
            assert len(reserved) < snapshot.queue_position <= len(self.model.tasks) or (
                expected in reserved)
            assert snapshot.model_available == any(
                models is None or expected.key_of_model in models
                for models in (self.model.workers[worker].models
                               for worker in self.model.connected(self.clock())))


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
