"""The Lua scripts that run inside Redis: each is one atomic step."""
from __future__ import annotations

import pkgutil
import re
from typing import Dict, Union

# Each builds on those before it.
SHARED = ("common", "clock", "room", "workers", "clients", "queue", "prefetched", "passed_over")
NAMES = (
    "submit", "submit_and_serve", "claim", "end_claim", "leave", "held", "read", "commit",
    "take_due", "set_model_alarm", "record_contact", "leases", "report", "inventories", "forget",
    "look", "list", "text", "status", "models", "counts", "usage", "check", "migrate", "beat",
)
# Scripts of several files, in this order.
PARTS = {
    "submit": ("no_claim", "submit"),
    "submit_and_serve": ("claim_arguments", "choose", "lease", "submit"),
    "claim": ("claim_arguments", "choose", "lease", "claim"),
}
# Scripts that serve a claim, and which of their arguments is the first of it.
CLAIM_AT = {"submit_and_serve": 21, "claim": 6}

# A constant; a function on one line; or one up to the first line that is just its `end`.
_DEFINITION = re.compile(
    r"^(local (?:[A-Z_]+ =.*|function .* end|function (?:.*\n)+?end)\n)", re.MULTILINE)
_NAME = re.compile(r"local (?:function )?(\w+)")
_COMMENT = re.compile(r"^ *--.*$", re.MULTILINE)


def load_scripts(**constants: Union[float, str]) -> Dict[str, str]:
    """The scripts by name: each after what it uses of what all share, and of the constants, which
    are local variables."""
    head = "".join(f"local {name} = {value}\n" for name, value in sorted(constants.items()))
    head += "".join(map(_read, SHARED))
    scripts = {}
    for name in NAMES:
        *before, body = map(_read, PARTS.get(name, (name,)))
        if name in CLAIM_AT:
            before.insert(0, f"local CLAIM_AT = {CLAIM_AT[name]}\n")
        scripts[name] = _link("".join([head, *before]), body)
    return scripts


def _link(head: str, body: str) -> str:
    """A script without the definitions that it does not use: Lua makes each function anew whenever
    the script runs, which takes as long as some scripts themselves."""
    linked, used = "", set()
    for part in reversed([*_DEFINITION.split(head), body]):
        name = _NAME.match(part) if _DEFINITION.match(part) else None
        if name is None or name[1] in used:
            linked = part + linked
            used.update(re.findall(r"\w+", _COMMENT.sub("", part)))
    return linked


def _read(name: str) -> str:
    # Unlike open(), get_data also reads from a zip file.
    data = pkgutil.get_data(__name__, f"{name}.lua")
    if data is None:
        raise FileNotFoundError(f"{name}.lua")
    return data.decode()
