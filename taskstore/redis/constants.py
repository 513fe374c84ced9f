"""The limits of a store as the Lua scripts name them; this module knows no script."""
from __future__ import annotations

from typing import Dict, Union

from .. import base, tasks
from ..estimates import KEPT_PER_MODEL, MAX_MODELS
from ..usage import MAX_MODELS_A_DAY, OTHER_MODELS
from .codec import DEFAULT_WIDTH

CONSTANTS: Dict[str, Union[float, str]] = {
    "MAX_WORKERS": base.MAX_WORKERS,
    "MAX_WORKERS_PER_HOLDER": base.MAX_WORKERS_PER_HOLDER,
    "MAX_NAMES_PER_HOLDER": base.MAX_MODEL_NAMES_PER_HOLDER,
    "MAX_FORMER_PER_HOLDER": base.MAX_FORMER_LISTS_PER_HOLDER,
    "MAX_NAMES_COMPARED": base.MAX_NAMES_COMPARED,
    "MAX_MODELS": MAX_MODELS,
    "KEPT_PER_MODEL": KEPT_PER_MODEL,
    "MAX_TEXT_CHARACTERS": base.MAX_TEXT_CHARACTERS,
    "TEXT_WIDTH": DEFAULT_WIDTH,
    "GRACE_SECONDS": base.CONNECTED_GRACE_SECONDS,
    "MAX_PULSE_GAP_SECONDS": base.MAX_PULSE_GAP_SECONDS,
    "UNKNOWN_MODEL_SECONDS": tasks.UNKNOWN_MODEL_GRACE_SECONDS,
    "MAX_MODELS_LISTED": tasks.MAX_MODELS_LISTED,
    "BACKGROUND": tasks.BACKGROUND,
    "MAX_FOREGROUND_IN_A_ROW": base.MAX_FOREGROUND_IN_A_ROW,
    "MAX_INVENTORY_BYTES": base.MAX_INVENTORY_BYTES,
    "MAX_MODELS_A_DAY": MAX_MODELS_A_DAY,
    "OTHER_MODELS": f"'{OTHER_MODELS}'",
}
