"""How the process treats its memory; it knows no requests."""
from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
THRESHOLD_BYTES = 256 * 1024


def return_freed_memory() -> None:
    """Make malloc return each large block as soon as it is freed.

    By itself, glibc keeps freed blocks of up to 32 MiB, in a heap for each of several threads, so
    that a few large bodies one after the other take as much memory as all at once.
    """
    if sys.platform == "linux":
        # Other C libraries have no mallopt().
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
            mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)


def freeze_objects() -> None:
    """Have the garbage collector skip all objects that exist now: they live as long as the server.

    A full collection, which stops all threads, would otherwise look at every module and function.
    """
    gc.collect()
    gc.freeze()
