"""How a prompt begins, for lists of tasks; this module refuses nothing."""
from __future__ import annotations

from typing import Any, List, Mapping

MAX_CHARACTERS = 200
# More of a text is never looked at, for blanks at its beginning.
MAX_LOOKED_AT = 10 * MAX_CHARACTERS


def summarize(fields: Mapping[str, Any]) -> str:
    """Return the beginning of the prompt, of the last message of a user, or of what is to be
    embedded; empty where there is no text."""
    for key in ("prompt", "messages", "input"):
        text = _beginning(fields.get(key))
        if text:
            return text
    return ""


def _beginning(value: Any) -> str:
    """Return the beginning of a text, a message, a part of one, or a list of these."""
    if isinstance(value, str):
        text = value[:MAX_LOOKED_AT].strip()[:MAX_CHARACTERS]
        # JSON can have half of a surrogate pair.
        return text.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return _of_list(value)
    if not isinstance(value, dict):
        return ""
    for key in ("content", "text"):
        if isinstance(value.get(key), (str, list)):
            # Parts have parts no deeper than this.
            return _beginning([part for part in value[key] if not isinstance(part, list)]
                              if isinstance(value[key], list) else value[key])
    return ""


def _of_list(values: List[Any]) -> str:
    messages = [one for one in values if isinstance(one, dict) and "role" in one]
    by_user = [message for message in messages if message.get("role") == "user"]
    if messages:
        return _beginning(by_user[-1]) if by_user else ""
    return next(filter(None, map(_beginning, values)), "")
