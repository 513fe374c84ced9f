"""Bringing keys that an older version wrote up to date."""
from __future__ import annotations

from typing import List

from ..names import model_key
from .codec import decode_str
from .connection import RedisConnection


def migrate(connection: RedisConnection) -> None:
    """Do what migrate.lua says, if it is necessary. Raises StoreDown."""
    names: List[bytes] = []
    status, *models = connection.run("migrate", "", 0, 0)
    while status == b"models":
        for name in models[0]:
            names += [name, model_key(decode_str(name)).encode("utf-8", "surrogatepass")]
        status, *models = connection.run("migrate", "", 0, 0, *names)
