"""The Lua scripts that run inside Redis: each is one atomic step."""
from __future__ import annotations

import pkgutil
from typing import Dict, Union

# Each builds on those before it.
SHARED = ("common", "clock", "room", "workers", "clients", "queue", "prefetched", "passed_over")
NAMES = (
    "submit", "claim", "end_claim", "leave", "held", "read", "commit", "take_due",
    "set_model_alarm", "record_contact", "leases", "report", "inventories", "forget", "look",
    "list", "text", "status", "models", "counts", "usage", "check", "migrate", "beat",
)
# Scripts of several files, in this order.
PARTS = {"claim": ("claim", "choose", "lease")}


def load_scripts(**constants: Union[float, str]) -> Dict[str, str]:
    """The scripts by name: each after what all share, with the constants as local variables."""
    head = "".join(f"local {name} = {value}\n" for name, value in sorted(constants.items()))
    head += "".join(map(_read, SHARED))
    return {name: head + "".join(map(_read, PARTS.get(name, (name,)))) for name in NAMES}


def _read(name: str) -> str:
    # Unlike open(), get_data also reads from a zip file.
    data = pkgutil.get_data(__name__, f"{name}.lua")
    if data is None:
        raise FileNotFoundError(f"{name}.lua")
    return data.decode()
