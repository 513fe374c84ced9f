"""A clock that goes on while the machine sleeps. It knows no time of day.

`time.monotonic` stands still meanwhile, except on Windows, and the time of day may be corrected at
any moment.
"""
from __future__ import annotations

import functools
import sys
import time
from typing import Any, Callable


def _find() -> Callable[[], float]:
    # Its type says that the functions exist everywhere.
    module: Any = time
    name = "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    number = getattr(module, name, None)
    if number is not None:
        try:
            module.clock_gettime(number)
            return functools.partial(module.clock_gettime, number)
        except OSError:  # The kernel does not have it.
            pass
    return time.monotonic


now = _find()
