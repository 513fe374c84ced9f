"""The standard streams and arguments of test.py, made usable whatever the locale is."""
from __future__ import annotations

import codecs
import io
import os
import sys


def prepare_streams() -> bool:
    """Make the standard streams usable. Return whether there is a place for the answer."""
    # A closed stream is None.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        print("test.py: stdout is closed, so there is no place for the answer.", file=sys.stderr)
        return False
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Without a locale, Python reads ASCII; what people type and pipe is UTF-8 all the same.
    stdin = sys.stdin
    if isinstance(stdin, io.TextIOWrapper) and codecs.lookup(stdin.encoding).name == "ascii":
        stdin.reconfigure(encoding="utf-8", errors="replace")
    return True


def decode_argument(text: str) -> str:
    """Read an argument as UTF-8 if the locale could not read it."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "replace")
