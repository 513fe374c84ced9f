"""Tasks in an SQLite file."""
from .store import SqliteStore

__all__ = ["SqliteStore"]
