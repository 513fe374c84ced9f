"""The errors that a task store raises; every message is a sentence for the user."""
from __future__ import annotations


class TaskStoreError(Exception):
    """The base of all errors of a task store."""


class TaskNotFound(TaskStoreError):
    """The task does not exist, is no longer kept, or belongs to another user."""

    def __init__(self) -> None:
        super().__init__("Task not found.")


class LeaseLost(TaskStoreError):
    """The task is no longer this worker's, and the worker should drop it."""


class StoreFull(TaskStoreError):
    """No more tasks are accepted for now; the tasks already in the store are safe."""

    TOO_MANY_OF_YOURS = "You have too many queued tasks: try again later."
    YOURS_TOO_LARGE = "Your unfinished tasks take up too much space: try again later."
    TOO_MANY = "Too many tasks are queued: try again later."
    TOO_LARGE = "The task store is full: try again later."


class NoWorker(TaskStoreError):
    """No worker is connected that could run such a task; `is_too_old` says that some are."""

    def __init__(self, is_too_old: bool = False) -> None:
        super().__init__(
            "The connected workers are too old to relay requests: update llm_server.py there."
            if is_too_old else "No worker is connected: try again later.")


class ModelNotFound(TaskStoreError):
    """No connected worker has the model; `is_too_old` says that some do, but cannot run the task.
    """

    def __init__(self, model: str, is_too_old: bool = False) -> None:
        # These are Ollama's words, which its clients know.
        super().__init__(f"model '{model}' not found" + (
            ": the workers that have it are too old to relay requests" if is_too_old else ""))


class CannotOpen(TaskStoreError):
    """The store does not exist, is not a task store, or is in use by another process."""


class StoreDown(TaskStoreError):
    """The store cannot be reached or cannot write for now; everything acknowledged is safe."""


class StoreUnreachable(StoreDown):
    """There is no connection to the store, which any later one shows to be over."""


class KeyReused(TaskStoreError):
    """An idempotency key was used for a second, different submission."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was already used with a different body.")


class TextTooLong(TaskStoreError):
    """The text of a running task exceeds its limit; its result is still accepted."""

    def __init__(self) -> None:
        super().__init__("The text is too long to keep while the task is running.")
