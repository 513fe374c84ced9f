"""Tasks in Redis, shared by any number of processes."""
from .store import RedisStore

__all__ = ["RedisStore"]
