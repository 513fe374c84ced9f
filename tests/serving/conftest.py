"""Fixtures for the tests of a Manage Server in a process of its own."""
from __future__ import annotations

import os
from typing import Any, Dict

import pytest

from tests.support.processes import ROOT


@pytest.fixture(scope="module", params=["waitress", "flask"])
def environ(request: Any, tmp_path_factory: Any) -> Dict[str, str]:
    """An environment in which the Manage Server serves with waitress, or cannot import it."""
    if request.param == "waitress":
        pytest.importorskip("waitress")
        return {}
    folder = tmp_path_factory.mktemp("without_waitress")
    (folder / "waitress.py").write_text("raise ImportError('not installed')\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
