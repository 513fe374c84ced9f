"""Makes text from outside safe to print on a terminal or in a log."""
from __future__ import annotations

import re


def make_printable(text: str, keep: str = "") -> str:
    r"""Return `text` with every invisible character written out, such as \x1b or \n.

    Control characters would command a terminal, and line breaks would forge lines of a log. `keep`
    lists characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode("ascii") for char in text
    )


def make_terminal_safe(text: str) -> str:
    r"""Return a text of several lines as a terminal may show it, with control characters escaped.

    Unlike `make_printable`, it keeps what writing needs: tabs, line breaks, and the invisible
    characters that join emoji or set the direction of a line.
    """
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]",
                  lambda match: make_printable(match.group()), text.replace("\r\n", "\n"))


def without_password(text: str) -> str:
    """Return a URL, or a text with one, as it may be shown: without user and password.

    They end at the last @, because a # or a / that should have been written as %23 or %2F may stand
    in a password. Of what comes before, only http:// or the like is sure to be no part of one.
    """
    before, at, rest = text.rpartition("@")
    scheme = re.match(r"[\s\"']*[A-Za-z][A-Za-z0-9+.-]*:/+", before)
    return (scheme.group() if scheme else "") + rest if at else text


def end_sentence(text: str) -> str:
    """Return a text with a full stop, unless it has an end."""
    return text if text.endswith((".", "?", "!")) else text + "."
