"""The limits of a store as the Lua scripts name them; this module knows no script."""
from __future__ import annotations

from typing import Dict

from .. import base, tasks
from ..estimates import KEPT_PER_MODEL, MAX_MODELS

CONSTANTS: Dict[str, float] = {
    "MAX_WORKERS": base.MAX_WORKERS,
    "MAX_WORKERS_PER_HOLDER": base.MAX_WORKERS_PER_HOLDER,
    "MAX_NAMES_PER_HOLDER": base.MAX_MODEL_NAMES_PER_HOLDER,
    "MAX_FORMER_PER_HOLDER": base.MAX_FORMER_LISTS_PER_HOLDER,
    "MAX_NAMES_COMPARED": base.MAX_NAMES_COMPARED,
    "MAX_MODELS": MAX_MODELS,
    "KEPT_PER_MODEL": KEPT_PER_MODEL,
    "MAX_TEXT_BYTES": base.MAX_TEXT_BYTES,
    "GRACE_SECONDS": base.CONNECTED_GRACE_SECONDS,
    "MAX_PULSE_GAP_SECONDS": base.MAX_PULSE_GAP_SECONDS,
    "UNKNOWN_MODEL_SECONDS": tasks.UNKNOWN_MODEL_GRACE_SECONDS,
    "MAX_MODELS_LISTED": tasks.MAX_MODELS_LISTED,
}
