"""What is said when the folder for temporary files is full or missing; it knows no connection."""
from __future__ import annotations

import tempfile

from .connections import Seldom

_failures = Seldom()


def report_failure(what: str, error: OSError) -> str:
    """Log that something cannot be stored, and return a sentence about it for the client."""
    try:
        folder = tempfile.gettempdir()
    except OSError:  # There is none that can be used.
        folder = "none"
    reason = error.strerror or str(error)
    _failures.warn("%s cannot be stored in the folder for temporary files, %s (TMPDIR): %s",
                   what, folder, reason)
    return (f"{what} cannot be stored in the server's folder for temporary files, {folder} "
            f"(TMPDIR): {reason}.")
