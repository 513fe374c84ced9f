"""The limits of a store: those that are settings, and those that are not."""
from __future__ import annotations

from typing import NamedTuple

# The limit for the text of one running task: far more than a useful answer, so that a model that
# never stops does not fill the store. For a relayed task, these are bytes.
MAX_TEXT_CHARACTERS = 40 * 1024 * 1024
# Nobody waits any more at a Manage Server that has been silent for this long.
MAX_SERVER_SILENCE_SECONDS = 10.0
# A worker counts as connected for this long after its last request.
CONNECTED_GRACE_SECONDS = 30.0
# Workers that a store remembers, in all and for each holder. When there are more, it forgets the
# one that was last in contact longest ago, of the holder that has too many or has the most.
MAX_WORKERS = 1000
MAX_WORKERS_PER_HOLDER = 100
# Names of models that a store remembers for each holder, and those of a claim that count.
MAX_MODEL_NAMES_PER_HOLDER = 40_000
# After so many foreground tasks of an owner in a row, one of its background tasks is next.
MAX_FOREGROUND_IN_A_ROW = 7
# What workers have reported of their Ollama takes at most this much.
MAX_INVENTORY_BYTES = 64 * 1024 * 1024
MAX_MODELS_PER_CLAIM = 2_000
# Lists of models that a store remembers for each holder, of workers that it has forgotten or that
# have other models now.
MAX_FORMER_LISTS_PER_HOLDER = 100
# The longest list that is compared with the one that replaces it: it need not be remembered if the
# new one has all its models.
MAX_NAMES_COMPARED = 1_000
# A task waits for a worker that had its model and was in contact within this time.
MODEL_REMEMBERED_SECONDS = 24 * 60 * 60.0
# A longer gap in the pulse of the Manage Server restarts all leases.
MAX_PULSE_GAP_SECONDS = 5.0


class Limits(NamedTuple):
    """The limits of a store.

    An owner with a name may queue `max_queued_tasks_per_user` tasks, but at most half of the
    places that other owners leave of `max_queued_tasks`, rounded up. Its unfinished tasks may
    take at most half of the bytes that the unfinished tasks of others leave of `max_store_bytes`.
    All tasks without an owner count as one owner's, who may take everything that others leave.

    When the store is full, it forgets the oldest finished task of the owner whose finished tasks
    take the most bytes. For a result, it keeps the task that finished last: if that is all that
    this owner has, the store exceeds `max_store_bytes` until another task finishes.
    """

    max_attempts: int = 3
    max_queued_tasks: int = 10_000
    max_queued_tasks_per_user: int = 5_000
    max_store_bytes: int = 512 * 1024 * 1024
    result_ttl_seconds: float = 24 * 60 * 60.0
    usage_days: int = 90
    """For how many days, today included, `usage` is kept."""
    model_switch_seconds: float = 30.0
    """A task waits at most this much longer because workers prefer others whose model is loaded;
    0 for no preference."""
