"""The lists of models of several workers as one, in the formats of Ollama and OpenAI; these are
functions of what the workers reported, and know neither stores nor HTTP.

Source: ListModelResponse, ProcessModelResponse and ShowResponse in Ollama's `api/types.go`, Model
in its `openai/openai.go`.
"""
from __future__ import annotations

import datetime
import hashlib
import re
from typing import Any, Callable, Dict, Iterable, List, Optional

from taskstore.names import model_key

# A build of Ollama without a version says this.
NO_VERSION = "0.0.0"
# How Go writes a time that is not set.
NO_TIME = "0001-01-01T00:00:00Z"
# `ollama list` cuts digests to this length, and crashes where one is shorter.
MIN_DIGEST_LENGTH = 12

Entry = Dict[str, Any]

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1)


def complete_entry(entry: Entry) -> Entry:
    """Return an entry of /api/tags with everything in it that clients rely on."""
    name = str(entry["name"])
    fields = {"modified_at": NO_TIME, "size": 0, "details": {}, **_of_their_types(entry, _FIELDS)}
    return {**fields, "details": _of_their_types(fields["details"], _DETAILS), "name": name,
            "model": name, "digest": _digest(name, entry.get("digest"))}


def merge_tags(lists: Iterable[List[Entry]]) -> List[Entry]:
    """Return the models of all workers, each once, those changed last first, as Ollama does."""
    newest: Dict[str, Entry] = {}
    for entry in (entry for entries in lists for entry in entries):
        other = newest.get(model_key(entry["name"]))
        if other is None or _changed_at(entry) > _changed_at(other):
            newest[model_key(entry["name"])] = entry
    return sorted(newest.values(), key=lambda entry: (-_changed_at(entry), entry["name"]))


def merge_loaded(lists: Iterable[List[Any]], tags: List[Entry]) -> List[Entry]:
    """Return the loaded models of all workers, each once, as the entries of /api/ps.

    A worker that has many reports only their names.
    """
    known = {model_key(entry["name"]): entry for entry in tags}
    merged: Dict[str, Entry] = {}
    for reported in (reported for entries in lists for reported in entries):
        entry = {"name": reported} if isinstance(reported, str) else reported
        key = model_key(entry["name"])
        tag = known.get(key, {})
        base: Entry = {name: tag[name] for name in ("size", "digest", "details") if name in tag}
        loaded = {"expires_at": NO_TIME, "size_vram": 0, **complete_entry({**base, **entry})}
        del loaded["modified_at"]
        if key not in merged or unix_time(loaded["expires_at"]) > unix_time(
                merged[key]["expires_at"]):
            merged[key] = loaded
    return sorted(merged.values(), key=lambda entry: str(entry["name"]))


def lowest_version(versions: Iterable[str]) -> str:
    """Return the oldest version: what a client may rely on with any of the workers."""
    return min(filter(None, versions), key=_version_numbers, default=NO_VERSION)


def openai_model(entry: Entry) -> Entry:
    """Return an entry of /v1/models."""
    namespace = entry["name"].rpartition("/")[0].rpartition("/")[2]
    return {"id": entry["name"], "object": "model", "created": int(_changed_at(entry)),
            "owned_by": namespace or "library"}


def find_model(tags: Iterable[Entry], model: str) -> Optional[Entry]:
    key = model_key(model)
    return next((entry for entry in tags if model_key(entry["name"]) == key), None)


def show_without_details(entry: Entry) -> Entry:
    """Return an answer of /api/show for a model of which only its entry in /api/tags is known."""
    return {"modelfile": "", "template": "", "details": entry["details"], "model_info": {},
            "capabilities": ["completion"], "modified_at": entry["modified_at"]}


def unix_time(text: str) -> float:
    """Return a time as Go writes it in JSON, in seconds since 1970; 0 for another text."""
    return _seconds_of(text) or 0.0


def _changed_at(entry: Entry) -> float:
    # Before 1970 is only the time that is not set.
    return max(0.0, unix_time(entry["modified_at"]))


def _digest(name: str, digest: Any) -> str:
    if isinstance(digest, str) and len(digest) >= MIN_DIGEST_LENGTH:
        return digest
    return hashlib.sha256(name.encode()).hexdigest()


def _seconds_of(text: str) -> Optional[float]:
    """Return a time in seconds since 1970; None for what is no time."""
    matched = _TIME.fullmatch(text)
    if not matched:
        return None
    try:
        since = datetime.datetime.fromisoformat(matched.group(1)) - _EPOCH
    except ValueError:
        return None
    sign, hours, minutes = matched.group(2), matched.group(3), matched.group(4)
    offset = (int(hours) * 3600 + int(minutes) * 60) if sign else 0
    return since.total_seconds() + (-offset if sign == "+" else offset)


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and _seconds_of(value) is not None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of_texts(value: Any) -> bool:
    # Go writes an empty list as null.
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


# Clients read nothing at all of a list that has a value of another type in one of these.
_FIELDS: Dict[str, Callable[[Any], bool]] = {
    "name": _is_text, "model": _is_text, "digest": _is_text, "details": _is_object,
    "modified_at": _is_time, "expires_at": _is_time, "size": _is_size, "size_vram": _is_size,
    "context_length": _is_size, "remote_model": _is_text, "remote_host": _is_text,
    "capabilities": _is_list_of_texts,
}
_DETAILS: Dict[str, Callable[[Any], bool]] = {
    "parent_model": _is_text, "format": _is_text, "family": _is_text,
    "families": _is_list_of_texts, "parameter_size": _is_text, "quantization_level": _is_text,
    "context_length": _is_size, "embedding_length": _is_size,
}


def _of_their_types(fields: Entry, checks: Dict[str, Callable[[Any], bool]]) -> Entry:
    """Return the fields but for those of another type, and those whose names clients written in Go
    would take for one of these; what is not known here stays."""
    return {key: value for key, value in fields.items()
            if (checks[key](value) if key in checks else key.casefold() not in checks)}


def _version_numbers(version: str) -> List[int]:
    return [int(number) for number in re.findall("[0-9]{1,9}", version)]
