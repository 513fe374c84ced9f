"""The names of workers and models, and when two are the same; this module knows no tasks."""
from __future__ import annotations

import functools
import heapq
from typing import AbstractSet, FrozenSet, Iterable, NamedTuple, Optional

# An error lists this many models, and this many characters of each.
MAX_MODELS_LISTED = 20
MAX_LISTED_LENGTH = 100
# How the `instance` in the id of a worker begins that has not sent one.
NO_INSTANCE = "models:"
# How the queue key of a task begins that the four endpoints cannot carry.
EXTENDED = "\x1f"


class WorkerId(NamedTuple):
    """What tells one worker from another."""

    holder: str
    """The name of its token; empty where tokens have no names."""
    name: str
    instance: str
    """A random string that it sends with every claim or, without one, a digest of its models."""


def worker_label(worker: str, holder: str) -> str:
    """Return the name of a worker as people are shown it: `gpu-1`, or `token/gpu-1` where its
    token has a name."""
    return f"{holder}/{worker}" if holder else worker


# The same few names come with every claim and every task.
@functools.lru_cache(maxsize=1024)
def model_key(model: str) -> str:
    """Return the full name of a model, equal for all names that Ollama takes for the same model:
    `llama3:latest` for `Llama3` and for `registry.ollama.ai/library/llama3`.

    The rules are those of ParseName and EqualFold in Ollama's `types/model/name.go`.
    """
    name = model.strip().lower()
    if ":" not in name.rpartition("/")[2]:
        name += ":latest"
    if "/" not in name:
        return name
    if name.startswith(("https://", "http://")):
        name = name.partition("://")[2]
    if name.count("/") == 2 and name.startswith("registry.ollama.ai/"):
        name = name.partition("/")[2]
    if name.count("/") == 1 and name.startswith("library/"):
        name = name.partition("/")[2]
    return name


def queue_key(model: str, is_plain: bool) -> str:
    """Return the key under which tasks of a model are queued: those that the four endpoints can
    carry apart from the others."""
    return model_key(model) if is_plain else EXTENDED + model_key(model)


def queue_keys(models: Iterable[str], is_extended: bool) -> FrozenSet[str]:
    """Return the queue keys of a worker's models; an extended one runs tasks of both kinds.

    An extended worker also has the key EXTENDED alone, by which it is known as such.
    """
    keys = {model_key(model) for model in models if not model.startswith(EXTENDED)}
    if is_extended:
        keys.update([EXTENDED + key for key in keys])
        keys.add(EXTENDED)
    return frozenset(keys)


def plain_name(key: str) -> str:
    """Return the full name of the model in a queue key."""
    return key[len(EXTENDED):] if key.startswith(EXTENDED) else key


def is_shown(key: str) -> bool:
    """Whether a queue key is the name of a model, as people are shown it."""
    return not key.startswith(EXTENDED)


def accepts(models: Optional[AbstractSet[str]], key: str) -> bool:
    """Whether a claim with these models may get tasks with this queue key; None stands for all
    models of plain tasks."""
    return is_shown(key) if models is None else key in models


def listed(models: Iterable[str]) -> str:
    """Return the first models in alphabetical order, as part of a sentence."""
    names = heapq.nsmallest(MAX_MODELS_LISTED + 1, set(filter(is_shown, models)))
    others = " and others" if len(names) > MAX_MODELS_LISTED else ""
    shown = [name[:MAX_LISTED_LENGTH] for name in names[:MAX_MODELS_LISTED]]
    return ", ".join(shown) + others or "none"
