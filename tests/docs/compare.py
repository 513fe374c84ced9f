"""Compares an output with the documented one, apart from what differs from run to run."""
from __future__ import annotations

import json
import re
from typing import Any, Callable

# A day or a time, as RFC 3339 has it.
TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?\Z")


def check_output(actual: str, documented: str, learn: Callable[[str, str], None]) -> None:
    """Assert that the outputs agree.

    JSON may be wrapped differently, and fractions and times may have other values. `learn` is
    called with each documented lease_id and the actual one, as later commands need it.
    """
    one, other = _parse(actual), _parse(documented)
    if other is not None:
        _check_value(one, other, learn, documented)
        return
    lines, documented_lines = actual.rstrip("\n").split("\n"), documented.rstrip("\n").split("\n")
    assert len(lines) == len(documented_lines), f"printed:\n{actual}"
    for line, documented_line in zip(lines, documented_lines):
        if documented_line.startswith("data: "):
            _check_value(_parse(line[6:]), _parse(documented_line[6:]), learn, documented_line)
        else:
            assert line == documented_line, f"printed:\n{actual}"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _check_value(
    actual: Any, documented: Any, learn: Callable[[str, str], None], context: str
) -> None:
    assert type(actual) is type(documented), f"{actual!r} for {documented!r} in {context}"
    if isinstance(documented, dict):
        assert list(actual) == list(documented), f"{list(actual)} in {context}"
        for key, value in documented.items():
            if key == "lease_id":
                learn(value, actual[key])
            else:
                _check_value(actual[key], value, learn, context)
    elif isinstance(documented, list):
        assert len(actual) == len(documented), context
        for one, other in zip(actual, documented):
            _check_value(one, other, learn, context)
    elif isinstance(documented, str) and TIME.match(documented):
        assert TIME.match(actual) and len(actual) == len(documented), context
    elif not isinstance(documented, float):
        assert actual == documented, context
