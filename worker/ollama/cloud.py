"""What would make Ollama use ollama.com, on the account of whoever runs it. It sends nothing.

Ollama reads JSON as Go does: keys in any case, and of several equal ones the last. So no key that
could be meant is let pass, whichever of them would count.
Source: internal/modelref in ollama/ollama, encoding/json in Go.
"""
from __future__ import annotations

import json
from typing import AbstractSet, Any, Dict, Iterable, List, Mapping, Tuple

from worker.ollama.model_names import model_key

Json = Dict[str, Any]

# Their tools that begin with this search the web.
PATHS_WITH_WEB_SEARCH = ("/v1/messages", "/v1/responses")
WEB_SEARCH = "web_search"
ADVICE = ("That would use the ollama.com account of whoever runs this worker, who has not allowed "
          "it (ALLOW_CLOUD).")


def is_cloud_name(name: str) -> bool:
    """Whether Ollama passes a model of this name on to ollama.com, even if it has no such model."""
    suffix = name.rpartition(":")[2].strip().lower() if ":" in name else ""
    return suffix == "cloud" or (suffix.endswith("-cloud") and "/" not in suffix)


def is_cloud_entry(entry: Mapping[str, Any]) -> bool:
    """Whether a model in the answer of /api/tags or /api/ps runs elsewhere."""
    names = [entry.get(key) for key in ("name", "model")]
    return bool(entry.get("remote_host") or entry.get("remote_model")) or any(
        isinstance(name, str) and is_cloud_name(name) for name in names)


def cloud_key(name: str) -> str:
    """Return what two names of a model have in common; `:local` at the end changes nothing."""
    name = name.strip()
    return model_key(name[:-len(":local")] if name.lower().endswith(":local") else name)


def refuse_fields(fields: Mapping[str, Any], cloud_keys: AbstractSet[str]) -> str:
    """Return why a request to /api/generate or /api/chat is refused, or ""."""
    return _refuse_models(fields.items(), cloud_keys)


def refuse_body(path: str, body: bytes, cloud_keys: AbstractSet[str]) -> str:
    """Return why a request is refused, or "". Raises ValueError for a body that can't be read.

    `cloud_keys` are those of the listed models that run elsewhere.
    """
    pairs = _first_value(body)
    if not isinstance(pairs, _Pairs):
        return ""
    refusal = _refuse_models(pairs, cloud_keys)
    if not refusal and path in PATHS_WITH_WEB_SEARCH and _has_web_search(pairs):
        return f"This worker does not search the web. {ADVICE}"
    return refusal


class _Pairs(List[Tuple[str, Any]]):
    """An object of JSON with all of its keys, also those that come twice."""


def _nothing(text: str) -> None:
    """Stand in for a number, which can't matter; a long one would take its time."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=_nothing, parse_float=_nothing)


def _first_value(body: bytes) -> Any:
    """Return the first value of a body; Ollama ignores what follows it."""
    try:
        return _DECODER.raw_decode(body.decode("utf-8", "replace").lstrip(" \t\r\n"))[0]
    except RecursionError:
        raise ValueError("The body is nested too deeply.") from None


def _refuse_models(pairs: Iterable[Tuple[str, Any]], cloud_keys: AbstractSet[str]) -> str:
    for name in _values(pairs, "model"):
        if isinstance(name, str) and (is_cloud_name(name) or cloud_key(name) in cloud_keys):
            return f"The model {name[:100]!r} does not run on this worker. {ADVICE}"
    return ""


def _has_web_search(pairs: _Pairs) -> bool:
    tools = [tool for value in _values(pairs, "tools") if isinstance(value, list) for tool in value]
    return any(isinstance(kind, str) and kind.strip().lower().startswith(WEB_SEARCH)
               for tool in tools if isinstance(tool, _Pairs) for kind in _values(tool, "type"))


def _values(pairs: Iterable[Tuple[str, Any]], name: str) -> List[Any]:
    # Go takes the long s and the Kelvin sign for s and k, as casefold() does.
    return [value for key, value in pairs if key.casefold() == name]
