"""What Ollama has, put into one bounded document for the Manage Server. It sends nothing."""
from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from worker.ollama.answers import LONE_SURROGATE

Json = Dict[str, Any]

MAX_LOADED_BYTES = 64 * 1024
# Of the answer of /api/show: nobody reads them to choose a model.
LONG_KEYS = ("tensors", "projector_info", "modelfile", "license")
MAX_LONG_BYTES = 2000
MAX_SHOW_BYTES = 1024 * 1024
# What Ollama sends is far below both.
MAX_DEPTH = 20
MAX_NUMBER = 2 ** 64


class Listing(NamedTuple):
    """What identifies an inventory: the version of Ollama, and its models as /api/tags has them.

    The answer of /api/show for a model follows from its digest.
    """

    version: str
    models: Sequence[Json]

    @property
    def digest(self) -> str:
        text = json.dumps([self.version, self.models], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def is_usable(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether a value can be sent as JSON that every Manage Server accepts."""
    if isinstance(value, dict):
        return depth > 0 and all(is_usable(key) and is_usable(child, depth - 1)
                                 for key, child in value.items())
    if isinstance(value, list):
        return depth > 0 and all(is_usable(child, depth - 1) for child in value)
    if isinstance(value, str):
        return not LONE_SURROGATE.search(value)
    return not isinstance(value, (int, float)) or abs(value) < MAX_NUMBER


def cut_show(show: Json) -> Optional[Json]:
    """Return what to keep of an answer of /api/show; None if it is useless or far too long."""
    if not is_usable(show):
        return None
    for key in LONG_KEYS:
        if len(encode(show)) <= MAX_SHOW_BYTES:
            break
        show = _without(show, key)
    return show if len(encode(show)) <= MAX_SHOW_BYTES else None


def build(listing: Listing, shows: Mapping[str, Json], max_bytes: int) -> Json:
    """Return the inventory, at most `max_bytes` of JSON: the longest fields go first.

    Then go the details, and at last the names, of the models that were changed longest ago.
    """
    models = sorted(listing.models, key=lambda model: str(model.get("modified_at", "")),
                    reverse=True)
    fitting = dict(shows)
    for key in LONG_KEYS:
        if _size(listing.version, models, fitting) <= max_bytes:
            break
        fitting = {digest: _without(show, key) for digest, show in fitting.items()}
    left_bytes = max_bytes - _size(listing.version, [], {})
    kept_models = _fitting(models, left_bytes)
    left_bytes -= sum(len(encode(model)) + 1 for model in kept_models)
    kept: Json = {}
    for digest in dict.fromkeys(str(model.get("digest", "")) for model in kept_models):
        if digest in fitting:
            left_bytes -= len(encode({digest: fitting[digest]}))
            if left_bytes < 0:
                break
            kept[digest] = fitting[digest]
    names = {id(model) for model in kept_models}
    return {"version": listing.version, "shows": kept,
            "models": [model for model in listing.models if id(model) in names]}


def cut_loaded(entries: Sequence[Json]) -> List[Json]:
    """Return the entries of /api/ps, or only their names where they would be too long."""
    if len(encode(entries)) <= MAX_LOADED_BYTES:
        return list(entries)
    names = [{"name": entry["name"], "model": entry["name"]} for entry in entries]
    return _fitting(names, MAX_LOADED_BYTES - 2)


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _size(version: str, models: Sequence[Json], shows: Mapping[str, Json]) -> int:
    return len(encode({"version": version, "models": models, "shows": shows}))


def _without(show: Json, key: str) -> Json:
    if len(encode(show.get(key))) <= MAX_LONG_BYTES:
        return show
    return {name: value for name, value in show.items() if name != key}


def _fitting(entries: Sequence[Json], left_bytes: int) -> List[Json]:
    """Return the first entries that fit into so many bytes of a list."""
    fitting = []
    for entry in entries:
        left_bytes -= len(encode(entry)) + 2
        if left_bytes < 0:
            break
        fitting.append(entry)
    return fitting
