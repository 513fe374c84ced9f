"""Reads the fields of a submission from JSON."""
from __future__ import annotations

import contextlib
import json
from typing import Any, Dict, Optional, Union

Json = Dict[str, Any]


def parse_fields(text: Union[str, bytes]) -> Optional[Json]:
    """Return the JSON object in `text`, or None for anything else.

    Python accepts NaN and Infinity, which are not JSON and which the server refuses, and it can't
    read what is nested too deeply.
    """
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
        return value if isinstance(value, dict) else None
    return None
