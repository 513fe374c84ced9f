"""TASK_STORE: what it may say, and the sentence for what people write instead."""
from __future__ import annotations

import os

import pytest

from taskstore import CannotOpen, MemoryStore, open_store
from taskstore.urls import sqlite_path


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("slashes", ["/", "///", "////"])
def test_one_or_three_or_more_slashes_begin_an_absolute_path(tmp_path, slashes):
    assert sqlite_path(f"sqlite:{slashes}{str(tmp_path)[1:]}/tasks.db") == f"{tmp_path}/tasks.db"


def test_a_path_without_slashes_is_in_the_current_folder():
    assert sqlite_path("sqlite:tasks.db") == "tasks.db"
    os.mkdir("data")
    assert sqlite_path("sqlite:data/tasks.db") == "data/tasks.db"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sqlite_path("sqlite:~/tasks.db") == f"{tmp_path}/tasks.db"


@pytest.mark.parametrize("url", ["memory:", "MEMORY:", "memory://"])
def test_memory_is_the_memory_store(url):
    assert type(open_store(url)) is MemoryStore


@pytest.mark.parametrize(("url", "advice"), [
    ("sqlite://tasks.db", "sqlite:tasks.db"),
    ("sqlite://tasks.db", "sqlite:///tasks.db"),
    ("sqlite://data/tasks.db", "sqlite:data/tasks.db"),
    ("sqlite:///tasks.db", "is /tasks.db, in the root folder: for the current folder write "
                           "sqlite:tasks.db"),
    ("sqlite:/tasks.db", "in the root folder"),
    ("sqlite:////tasks.db", "in the root folder"),
    ("sqlite:///no/such/folder/tasks.db", "there is no folder /no/such/folder: create it, or "
                                          "write sqlite:no/such/folder/tasks.db"),
    ("sqlite:folder/tasks.db", "there is no folder folder: create it."),
    ("sqlite::memory:", "write memory:"), ("sqlite:///:memory:", "write memory:"),
    ("sqlite:.", "is a folder"), ("sqlite:///tmp", "is a folder"), ("sqlite:///tmp/", "a folder"),
    ("sqlite:tasks.db?mode=ro", "takes none"),
])
def test_a_path_that_cannot_be_meant_is_refused_with_what_would_be_right(url, advice):
    with pytest.raises(CannotOpen) as caught:
        open_store(url)
    message = str(caught.value)
    assert advice in message and url in message
    assert "Errno" not in message and message.endswith(".") and "\n" not in message
    assert os.listdir() == []


@pytest.mark.parametrize("url", [
    "", "memory", "sqlite:", "sqlite://", "sqlite:///", "mysql://x", "redis:x", "x", "tasks.db",
    "/var/lib/tasks.db", "sqlite", "sqlite3:tasks.db", ":memory:",
])
def test_the_url_of_no_store_is_refused_with_all_forms(url):
    with pytest.raises(CannotOpen) as caught:
        open_store(url)
    assert str(caught.value) == ("TASK_STORE must be memory:, sqlite:///path/tasks.db, "
                                 f"sqlite:tasks.db or redis://host:6379/0, not {url!r}.")


def test_a_password_in_the_url_is_not_shown():
    with pytest.raises(CannotOpen, match="not 'host'") as caught:
        open_store("mysql://me:secret@host")
    assert "secret" not in str(caught.value)


def test_a_folder_that_is_not_writable_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CannotOpen, match=f"in the folder {tmp_path}, where this user may not"):
        open_store(f"sqlite://{tmp_path}/tasks.db")
