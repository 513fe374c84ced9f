"""The Lua scripts that run inside Redis: each is one atomic step."""
from __future__ import annotations

import pkgutil
from typing import Dict

NAMES = (
    "submit", "choose", "read", "commit", "take_due", "record_contact", "forget", "look", "text",
    "status",
)


def load_scripts(**constants: int) -> Dict[str, str]:
    """The scripts by name: each after common.lua, with the constants as local variables."""
    head = "".join(f"local {name} = {value}\n" for name, value in sorted(constants.items()))
    head += _read("common")
    return {name: head + _read(name) for name in NAMES}


def _read(name: str) -> str:
    # Unlike open(), get_data also reads from a zip file.
    data = pkgutil.get_data(__name__, f"{name}.lua")
    if data is None:
        raise FileNotFoundError(f"{name}.lua")
    return data.decode()
