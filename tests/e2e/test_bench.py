"""`python -m benchmarks --quick` prints every table; nobody judges its figures here."""
from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support import redis_server
from tests.support.processes import ROOT, TIMEOUT_SECONDS, environment

FIGURE = r" +-?[\d,.]+( ms| x| s| %)?"
HAS_REDIS = redis_server.why_missing() is None and bool(redis_server.binaries())
STORES = ["memory", "SQLite", *(["Redis", "Redis, two servers"] if HAS_REDIS else [])]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=str(ROOT), env=environment({}),
        capture_output=True, text=True, timeout=10 * TIMEOUT_SECONDS)


@pytest.mark.timeout(660)
def test_a_quick_run_prints_a_figure_in_every_column():
    quick = run("--quick")
    assert (quick.returncode, quick.stderr) == (0, "")
    columns = {
        "floor": [6],
        **{store: [6, 3, 8, 5, 3] for store in STORES},
        "from submission to task in hand": [2], "one request to an empty route": [2], "ratio": [2],
        "Ollama, read directly": [3, 8, 5],
        "4 slots": [4], "one model loaded at a time": [3],
        "prompts that were submitted": [1], "embeddings through the gateway": [1],
        "10 queued": [3], "100 queued": [3], "ratio, last to first": [3],
    }
    rows = re.findall(rf"^  (\S.*?)((?:{FIGURE})+)$", quick.stdout, re.MULTILINE)
    found = {}
    for name, figures, _ in rows:
        found.setdefault(name, []).append(len(re.findall(FIGURE, figures)))
    assert found == columns
    assert quick.stdout.endswith(" upper bound.\n")


def test_an_unknown_name_is_refused():
    refused = run("tasks", "nonsense")
    assert refused.returncode == 2
    assert "no such benchmark: nonsense" in refused.stderr
