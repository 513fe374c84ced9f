"""JSON as the Manage Server writes it."""
from __future__ import annotations

import json
import re
from typing import Any, Dict

# json.dumps() would make an encoder for each object.
_encode = json.JSONEncoder(ensure_ascii=False).encode
# JSON allows these in a string, but curl on a terminal would print them, as commands to it.
_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")


def dump_json(body: Dict[str, Any]) -> bytes:
    """Return an object as JSON on one line, in UTF-8, with all control characters escaped."""
    text = _encode(body)
    text = _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    # Only an unpaired surrogate, quoted in an error, cannot be encoded; escaped it is JSON again.
    return text.encode("utf-8", "backslashreplace")
