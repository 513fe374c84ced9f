"""The Redis store gives the same answers as the memory store, in random histories on both.

Some rules exist twice: in Lua, and in Python in the memory store. This test compares them. The
clock only moves by whole seconds between calls, so both stores get each call at the same moment.
Answers must be equal, and errors must have the same type and message.
"""
from __future__ import annotations

import itertools
import json
import os
import random

import pytest

from taskstore import (
    ANSWER,
    HEAD,
    THINKING,
    WATCHES,
    Claim,
    Cursor,
    Inventory,
    LeaseId,
    Limits,
    MemoryStore,
    Outcome,
    Piece,
    Submission,
    TaskStoreError,
)
from taskstore.names import WorkerId, queue_keys
from taskstore.task import FINAL
from tests.support import redis_server as servers
from tests.support.stores import FakeClock, steady_pulse

# `make attack` tries more.
SEEDS = range(40 if os.environ.get("ATTACK_EXAMPLES") else 4)
STEPS = 120
OWNERS = ("", "alice", "bob")
MODELS = ("llama3", "mistral", "qwen3:8b", "grüße")
WORKERS = ("gpu-1", "gpu-2", "gpu-3")
HOLDERS = ("", "token")
INSTANCES = ("", "one", "two")
SERVERS = ("", "one", "two")
WORDS = ("Be", "cause", " \U0001f600", "\n", "x" * 40, "é")
BYTES = ("Be", "\x00\xff", "x" * 40)
STATES = (frozenset(), frozenset(["queued"]), frozenset(["running", "failed"]),
          frozenset(["completed"]))
METRICS = ("", '{"eval_count": 3}', '{"prompt_eval_count": 5, "total_duration": 1500000000}')

ROOMY = {"max_queued_tasks": 15, "max_queued_tasks_per_user": 6, "result_ttl_seconds": 40.0}
CROWDED = {"max_queued_tasks": 6, "max_queued_tasks_per_user": 3, "result_ttl_seconds": 40.0}
TIGHT = {"max_store_bytes": 16_000, "result_ttl_seconds": 400.0, "max_attempts": 2}


class Secrets:
    """Lease ids that are the same in both stores as long as both grant the same leases."""

    def __init__(self):
        self._numbers = itertools.count(1)
        self.last = ""

    def token_urlsafe(self, length):
        self.last = f"lease-{next(self._numbers):014}"
        return self.last


class LastSecret:
    """The lease id that the first store has just granted, for a store that also takes one for each
    claim that finds nothing."""

    def __init__(self, secrets):
        self._secrets = secrets

    def token_urlsafe(self, length):
        return self._secrets.last


class History:
    """Random calls, the same to both stores."""

    def __init__(self, seed, memory, redis, clock, with_text):
        self._dice = random.Random(seed)
        self._stores = (memory, redis)
        self._clock = clock
        self._with_text = with_text
        self._prefers = False
        self._leases = [(1, "never-a-lease-id")]
        self._cursors = {}
        self._calls = []
        self._last_id = 0
        self._relayed_ids = set()
        # Those that may still change, by id.
        self._owners = {}
        self._moves = ([], [])
        for store, moves in zip(self._stores, self._moves):
            store.on_move = lambda *move, moves=moves: moves.append(move)

    def run(self):
        verbs = [self.submit] * 5 + [self.claim] * 5 + [
            self.renew, self.append, self.append, self.complete, self.fail, self.release,
            self.get, self.read, self.cancel, self.abandon, self.leave,
            self.release_others, self.wait, self.wait, self.status, self.report, self.report]
        for _ in range(STEPS):
            self._dice.choice(verbs)()
            self.views()
            self.figures()
        self.status()

    def run_prefetching(self):
        """Prefetches, and claims that prefer models, among all other calls."""
        self._prefers = True
        verbs = [self.submit] * 6 + [self.prefetch] * 6 + [self.claim] * 2 + [self.check_leases] * 2
        verbs += [self.exchange] * 2
        verbs += [self.renew, self.append, self.complete, self.fail, self.release, self.cancel,
                  self.abandon, self.leave, self.release_others, self.wait, self.wait]
        for _ in range(STEPS):
            self._dice.choice(verbs)()
            self.views()
            self.figures()
        self.status()

    def run_queue(self, prefers=False):
        """Tasks of two users in the foreground and the background, many claimed in a row; and if
        workers prefer models, time passes between claims."""
        self._prefers = prefers
        for _ in range(STEPS):
            for _ in range(self._dice.choice((0, 1, 3))):
                self._submit(self._dice.choice(MODELS[:3]), self._dice.choice(OWNERS[:2]),
                             is_plain=self._dice.random() < 0.8,
                             is_background=self._dice.random() < 0.3)
            verb = self._dice.choice((*[self.claim] * 12, self.release, self.cancel, self.status))
            verb()
            if prefers and self._dice.random() < 0.3:
                self._clock.advance(1)
            task_id = self._dice.randrange(1, self._last_id + 2)
            for owner in OWNERS[:2]:
                self._both("get", task_id, 0.0, owner)

    def submit(self):
        key = self._dice.choice(("", "", "k1", "k2"))
        size = self._dice.choice((5, 5, 1000, 3000))
        more = {"is_background": self._dice.random() < 0.3}
        if self._dice.random() < 0.4:
            more.update(
                is_plain=False, relay=self._dice.choice(("", "{}", "{}")),
                server=self._dice.choice(SERVERS), may_join=self._dice.random() < 0.7,
                needs_worker=self._dice.random() < 0.3)
        self._submit(
            self._dice.choice(MODELS), self._dice.choice(OWNERS), size,
            ttl_seconds=self._dice.choice((0.0, 0.0, 3.0)),
            timeout_seconds=self._dice.choice((0.0, 0.0, 9.0)), key=key, **more)

    def _submit(self, model, owner, size=5, **more):
        request = json.dumps({"prompt": "x" * size}).encode()
        task = self._both("submit", Submission(model, request, owner, **more))
        if task is not None and task.relay:
            self._relayed_ids.add(task.task_id)
        if task is not None:
            self._last_id = max(self._last_id, task.task_id)
            self._owners[task.task_id] = task.owner

    def prefetch(self):
        self.claim(self._dice.choice((1, 2, 3)))

    def check_leases(self):
        leases = [LeaseId(*self._lease()) for _ in range(3)]
        self._both(self._dice.choice(("renew_all", "lost_leases")), leases,
                   self._dice.choice(("", "", "token")))

    def exchange(self):
        """All that an exchange does, in its order."""
        worker = WorkerId(self._dice.choice(HOLDERS), self._dice.choice(WORKERS),
                          self._dice.choice(INSTANCES[1:]))
        self._both("end_claims", worker)
        self._dice.choice((self.complete, self.release, self.fail, lambda: None))()
        for verb in ("renew_all", "lost_leases"):
            self._both(verb, [LeaseId(*self._lease()) for _ in range(2)], worker.holder)
        for most in (0, self._dice.choice((1, 2, 3)), WATCHES):
            task = self._both("claim", Claim(
                worker.name, queue_keys(MODELS[:2], True), 30.0, worker.holder,
                instance=worker.instance, max_prefetched=most, replaces=True,
                prefers=queue_keys(self._dice.sample(MODELS, 1), True),
                watched=(LeaseId(1, "none"),)))
            if task is not None:
                self._leases.append((task.task_id, task.lease_id))

    def claim(self, most=0):
        models = self._dice.choice((None, frozenset(), frozenset(["llama3:latest"]),
                                    frozenset(["mistral:latest", "qwen3:8b"]),
                                    queue_keys(["llama3", "grüße"], True),
                                    queue_keys(["mistral", "qwen3:8b"], True)))
        more = {"max_prefetched": most,
                "watched": tuple(LeaseId(*self._lease()) for _ in range(self._dice.choice((0, 2))))}
        if self._prefers:
            more["prefers"] = queue_keys(self._dice.sample(MODELS, 2), True)
        task = self._both("claim", Claim(
            self._dice.choice(WORKERS), models, float(self._dice.choice((5, 10, 30))),
            self._dice.choice(HOLDERS), instance=self._dice.choice(INSTANCES), **more))
        if task is not None:
            self._leases.append((task.task_id, task.lease_id))

    def renew(self):
        self._both("renew", *self._lease())

    def append(self):
        task_id, lease_id = self._lease()
        kinds, words = (THINKING, ANSWER, ANSWER), WORDS
        if task_id in self._relayed_ids:
            kinds, words = (HEAD, ANSWER, ANSWER), BYTES
        pieces = [Piece(self._dice.choice(kinds), self._dice.choice(words))
                  for _ in range(self._dice.randrange(4) if self._with_text else 0)]
        self._both("append", task_id, lease_id, self._dice.choice((0, 1, 2, 7)), pieces,
                   self._dice.choice(("", "", "token")))

    def complete(self):
        task_id, lease_id = self._lease()
        outcome = Outcome("".join(self._dice.choices(WORDS, k=3)),
                          self._dice.choice(("", "Hmm.")), self._dice.choice(METRICS))
        self._both("finish", task_id, outcome, self._dice.choice((lease_id, lease_id, "")))

    def fail(self):
        task_id, lease_id = self._lease()
        self._both("fail", task_id, "It broke.", self._dice.random() < 0.7,
                   self._dice.choice((lease_id, lease_id, "")))

    def abandon(self):
        self._both("abandon", self._dice.randrange(1, self._last_id + 2),
                   self._dice.choice(SERVERS))

    def release(self):
        self._both("release", *self._lease(), "", self._dice.choice(("", "Busy.")))

    def release_others(self):
        worker = WorkerId(self._dice.choice(HOLDERS), self._dice.choice(WORKERS),
                          self._dice.choice(INSTANCES))
        self._both("release_others", worker, [LeaseId(*self._lease()) for _ in range(3)])

    def leave(self):
        self._both("leave", self._dice.choice(WORKERS), self._dice.choice(INSTANCES),
                   self._dice.choice(HOLDERS))

    def get(self):
        self._both("get", self._dice.randrange(self._last_id + 3), 0.0, "")

    def read(self):
        task_id = self._dice.randrange(1, self._last_id + 2)
        cursor = self._dice.choice((Cursor(), self._cursors.get(task_id, Cursor())))
        for owner in OWNERS:
            update = self._both("read", task_id, cursor, 0.0, owner)
            if update is not None:
                self._cursors[task_id] = update.cursor

    def cancel(self):
        task_id, owner = self._dice.randrange(1, self._last_id + 2), self._dice.choice(OWNERS)
        if self._dice.random() < 0.3:
            self._both("erase", task_id, owner)
        else:
            self._both("cancel", task_id, owner, self._dice.random() < 0.7)

    def wait(self):
        """Second by second, because the order of events at the same moment is not specified."""
        for _ in range(self._dice.choice((1, 2, 5, 20, 70))):
            self._clock.advance(1)
            self.status()

    def status(self):
        self._both("status")

    def views(self):
        """Each task as its owner sees it, until it is final; and any task, as anybody sees it."""
        for task_id, owner in list(self._owners.items()):
            found = self._both("get", task_id, 0.0, owner)
            if found is None or found.task.state in FINAL:
                del self._owners[task_id]
        for _ in range(2):
            self._both("get", self._dice.randrange(1, self._last_id + 2), 0.0,
                       self._dice.choice(OWNERS))

    def figures(self):
        owner, states = self._dice.choice(OWNERS), self._dice.choice(STATES)
        self._both("list_tasks", owner, states, self._dice.choice((1, 3, 50)),
                   self._dice.choice((0, 0, self._last_id)))
        self._both(*self._dice.choice((
            ("usage", owner, self._dice.choice((1, 2, 30))), ("owner_counts", owner), ("counts",),
        )))

    def report(self):
        instance = self._dice.choice(("one", "two"))
        worker = WorkerId(self._dice.choice(HOLDERS), self._dice.choice(WORKERS), instance)
        inventory = Inventory(self._dice.choice("ab"), b"x" * self._dice.choice((10, 20)))
        self._dice.choice((
            lambda: self._both("set_inventory", worker, inventory),
            lambda: self._both("set_loaded", worker, self._dice.choice((b"[]", b"[1]"))),
        ))()
        self._both("inventory_digest", worker)
        self._both("inventories")

    def _lease(self):
        return self._dice.choice(self._leases[-6:])

    def _both(self, verb, *args):
        self._calls = [*self._calls[-15:], (verb, args)]
        answers = [self._answer(store, verb, args) for store in self._stores]
        assert answers[1] == answers[0], self._calls[-12:]
        # The order of moves at the same moment is specified for each task only.
        moves = [sorted(moves, key=lambda move: move[1].task_id) for moves in self._moves]
        assert moves[1] == moves[0], self._calls[-12:]
        return None if isinstance(answers[0], str) else answers[0]

    @staticmethod
    def _answer(store, verb, args):
        try:
            return getattr(store, verb)(*args)
        except TaskStoreError as error:
            return f"{type(error).__name__}: {error}"


@pytest.fixture
def history(redis_server, monkeypatch):
    """A function that opens a store of each kind, and returns a history of both."""
    secrets = Secrets()
    monkeypatch.setattr("taskstore.memory.scheduler.secrets", secrets)
    monkeypatch.setattr("taskstore.redis.leasing.secrets", LastSecret(secrets))
    # So that tasks fail because no worker has had their model for long enough.
    monkeypatch.setattr("taskstore.memory.unknown_models.MODEL_REMEMBERED_SECONDS", 50.0)
    monkeypatch.setattr("taskstore.redis.table.MODEL_REMEMBERED_SECONDS", 50.0)
    opened = []

    def new_history(seed, with_text=True, **limits):
        clock = FakeClock()
        opened.append(servers.open_store(Limits(**limits), clock))
        memory = MemoryStore(Limits(**limits), clock, steady_pulse(), wall_clock=clock)
        # A day of the wall clock is as short as a history.
        for store in (memory, opened[0]):
            store.wall_clock = lambda: clock() * 1000
        return History(seed, memory, opened[0], clock, with_text)

    yield new_history
    for store in opened:
        store.close()


@pytest.mark.parametrize("with_text, limits", [(True, ROOMY), (True, CROWDED), (False, TIGHT)])
@pytest.mark.parametrize("seed", SEEDS)
def test_redis_and_memory_give_the_same_answers(history, seed, with_text, limits):
    history(seed, with_text, **limits).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_redis_and_memory_give_foreground_and_background_tasks_in_the_same_order(history, seed):
    history(seed, max_queued_tasks=1000).run_queue()


@pytest.mark.parametrize("seed", SEEDS)
def test_redis_and_memory_pass_over_the_same_foreground_and_background_tasks(history, seed):
    history(seed, max_queued_tasks=1000, model_switch_seconds=10.0).run_queue(prefers=True)


@pytest.mark.parametrize("with_text, limits", [(True, ROOMY), (True, CROWDED), (False, TIGHT)])
@pytest.mark.parametrize("seed", SEEDS)
def test_redis_and_memory_prefetch_and_prefer_the_same_tasks(history, seed, with_text, limits):
    history(seed, with_text, model_switch_seconds=4.0, **limits).run_prefetching()
