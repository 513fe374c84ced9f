"""The lists of models of several workers as one, in the formats of Ollama and OpenAI; these are
functions of what the workers reported, and know neither stores nor HTTP.

Source: ListModelResponse, ProcessModelResponse and ShowResponse in Ollama's `api/types.go`, Model
in its `openai/openai.go`.
"""
from __future__ import annotations

import calendar
import hashlib
import re
import time
from typing import Any, Dict, Iterable, List, Optional, Tuple

from taskstore.names import model_key

# A build of Ollama without a version says this.
NO_VERSION = "0.0.0"
# How Go writes a time that is not set.
NO_TIME = "0001-01-01T00:00:00Z"
# `ollama list` cuts digests to this length, and crashes where one is shorter.
MIN_DIGEST_LENGTH = 12

Entry = Dict[str, Any]

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)


def complete_entry(entry: Entry) -> Entry:
    """Return an entry of /api/tags with everything in it that clients rely on."""
    name = str(entry["name"])
    return {**entry, "name": name, "model": name, **_checked(entry, {
        "modified_at": (str, NO_TIME), "size": (int, 0), "details": (dict, {}),
    }), "digest": _digest(name, entry.get("digest"))}


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
        loaded = complete_entry({**base, **entry})
        del loaded["modified_at"]
        loaded.update(_checked(entry, {"expires_at": (str, NO_TIME), "size_vram": (int, 0)}))
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
    matched = _TIME.fullmatch(text)
    if not matched:
        return 0.0
    try:
        seconds = calendar.timegm(time.strptime(matched.group(1), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0
    sign, hours, minutes = matched.group(2), matched.group(3), matched.group(4)
    offset = (int(hours) * 3600 + int(minutes) * 60) if sign else 0
    return float(seconds - offset if sign == "+" else seconds + offset)


def _changed_at(entry: Entry) -> float:
    # Before 1970 is only the time that is not set.
    return max(0.0, unix_time(entry["modified_at"]))


def _digest(name: str, digest: Any) -> str:
    if isinstance(digest, str) and len(digest) >= MIN_DIGEST_LENGTH:
        return digest
    return hashlib.sha256(name.encode()).hexdigest()


def _checked(entry: Entry, fields: Dict[str, Tuple[type, Any]]) -> Entry:
    """Return the fields, each with its default where the entry has none of its type."""
    return {key: entry[key] if isinstance(entry.get(key), kind) else default
            for key, (kind, default) in fields.items()}


def _version_numbers(version: str) -> List[int]:
    return [int(number) for number in re.findall("[0-9]{1,9}", version)]
