"""The limits of a store as the Lua scripts name them; this module knows no script."""
from __future__ import annotations

from typing import Dict, Union

from .. import limits, names, task, tasks
from ..estimates import KEPT_PER_MODEL, MAX_MODELS
from ..pulse import TICK_SECONDS
from ..usage import MAX_MODELS_A_DAY, OTHER_MODELS
from ..wall_times import MAX_JUMPS, MIN_JUMP_SECONDS
from .codec import DEFAULT_WIDTH
from .news import MAX_NEWS_BYTES

CONSTANTS: Dict[str, Union[float, str]] = {
    "MAX_WORKERS": limits.MAX_WORKERS,
    "MAX_WORKERS_PER_HOLDER": limits.MAX_WORKERS_PER_HOLDER,
    "MAX_NAMES_PER_HOLDER": limits.MAX_MODEL_NAMES_PER_HOLDER,
    "MAX_FORMER_PER_HOLDER": limits.MAX_FORMER_LISTS_PER_HOLDER,
    "MAX_NAMES_COMPARED": limits.MAX_NAMES_COMPARED,
    "MAX_MODELS": MAX_MODELS,
    "KEPT_PER_MODEL": KEPT_PER_MODEL,
    "MAX_TEXT_CHARACTERS": limits.MAX_TEXT_CHARACTERS,
    "TEXT_WIDTH": DEFAULT_WIDTH,
    "GRACE_SECONDS": limits.CONNECTED_GRACE_SECONDS,
    "MAX_PULSE_GAP_SECONDS": limits.MAX_PULSE_GAP_SECONDS,
    "TICK_SECONDS": TICK_SECONDS,
    "PREFETCH_SECONDS": tasks.PREFETCH_SECONDS,
    "UNKNOWN_MODEL_SECONDS": tasks.UNKNOWN_MODEL_GRACE_SECONDS,
    "MAX_MODELS_LISTED": names.MAX_MODELS_LISTED,
    "BACKGROUND": task.BACKGROUND,
    "MAX_FOREGROUND_IN_A_ROW": limits.MAX_FOREGROUND_IN_A_ROW,
    "MAX_INVENTORY_BYTES": limits.MAX_INVENTORY_BYTES,
    "MAX_MODELS_A_DAY": MAX_MODELS_A_DAY,
    "MAX_JUMPS": MAX_JUMPS,
    "MIN_JUMP_SECONDS": MIN_JUMP_SECONDS,
    "MAX_NEWS_BYTES": MAX_NEWS_BYTES,
    "OTHER_MODELS": f"'{OTHER_MODELS}'",
}
