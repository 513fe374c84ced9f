"""Which answers pause: those to tasks in memory, where the server allows it."""
from __future__ import annotations

import dataclasses
from typing import Any, Callable, List

import pytest

import config
from manage.context import Context
from manage.routes.pauses import watching_task
from manage.serving.connections import PAUSES
from manage_server import create_app
from taskstore import MemoryStore, TaskStore
from taskstore.sqlite import SqliteStore
from tests.support.stores import submit


class Channel:
    """A connection of a server that lets answers pause."""

    def __init__(self) -> None:
        self.resumed: List[str] = []
        self.allowed = 0

    def allow_pauses(self) -> Callable[[], None]:
        self.allowed += 1
        return lambda: self.resumed.append("resumed")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: Any, tmp_path: Any) -> Any:
    store: TaskStore = (MemoryStore() if request.param == "memory"
                        else SqliteStore(str(tmp_path / "tasks.db")))
    yield store
    store.close()


def context_of(store: TaskStore) -> Context:
    app = create_app(dataclasses.replace(config.Settings(), log_level="WARNING"), store)
    context: Context = app.view_functions["submit"].args[0]  # type: ignore[attr-defined]
    return context


def test_an_answer_pauses_only_if_its_task_is_in_memory(store: TaskStore) -> None:
    channel, task_id = Channel(), submit(store)
    watching = watching_task(context_of(store), {PAUSES: channel}, task_id)
    assert (watching is not None) == (type(store) is MemoryStore) == bool(channel.allowed)
    if watching is not None:
        with watching:
            store.cancel(task_id)
        assert channel.resumed == ["resumed"]


def test_an_answer_waits_in_its_thread_where_the_server_cannot_pause(store: TaskStore) -> None:
    assert watching_task(context_of(store), {}, submit(store)) is None
