"""What workers report of their models, parsed from bodies; it knows no Flask.

Only what clients will be shown is checked: a worker must not be able to break an answer that is
made of the reports of several.
"""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from taskstore import Inventory, WorkerId
from taskstore.limits import MAX_MODELS_PER_CLAIM

from . import json_input as values
from .json_input import BadInput

MAX_LOADED_BYTES = 64 * 1024


class InventoryRequest(NamedTuple):
    """The body of POST /task/inventory; the holder of the worker is not in it."""

    worker: WorkerId
    inventory: Inventory


def digest(fields: Dict[str, Any], key: str) -> str:
    """The digest of an inventory; empty if there is none."""
    value = fields.get(key)
    return "" if value is None or value == "" else values.name(key, value)


def loaded_models(value: Any) -> Tuple[Optional[bytes], List[str]]:
    """The entries of /api/ps, or only names, as a JSON list; and the names. Raises BadInput."""
    if value is None:
        return None, []
    values.check_type("loaded", value, (list,))
    entries = [entry for entry in value if isinstance(entry, str) or _is_entry(entry)]
    entries = entries[:MAX_MODELS_PER_CLAIM]
    dumped = values.dump(entries)
    if len(dumped) > MAX_LOADED_BYTES:
        raise BadInput(f"loaded must be at most {MAX_LOADED_BYTES} bytes of JSON.")
    return dumped, [entry if isinstance(entry, str) else entry["name"] for entry in entries]


def inventory(fields: Dict[str, Any]) -> InventoryRequest:
    """The body of POST /task/inventory. Raises BadInput."""
    worker = WorkerId("", values.name("worker", fields.get("worker")),
                      values.name("instance", fields.get("instance")))
    content = fields.get("inventory")
    values.check_type("inventory", content, (dict,))
    assert isinstance(content, dict)
    version, models, shows = (content.get(key) for key in ("version", "models", "shows"))
    kept = {
        "version": version if isinstance(version, str) and values.is_name(version) else "",
        # A worker gets no tasks for more, and each takes time in every answer.
        "models": [entry for entry in models if _is_entry(entry)][:MAX_MODELS_PER_CLAIM]
        if isinstance(models, list) else [],
        "shows": {key: show for key, show in shows.items() if isinstance(show, dict)}
        if isinstance(shows, dict) else {},
    }
    return InventoryRequest(
        worker, Inventory(values.name("digest", fields.get("digest")), values.dump(kept)))


def _is_entry(entry: Any) -> bool:
    """Whether it is an object about a model."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return isinstance(name, str) and values.is_name(name)
