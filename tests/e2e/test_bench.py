"""benchmarks/bench.py as a person starts it, with --quick; its figures are not judged here."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.redis_server import binaries, why_missing

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 300
NUMBER = r"  +\d[\d.,]*( ms| x)?"
MAYBE_NUMBER = rf"({NUMBER}|  +unknown)"  # CPU time is not told everywhere
HAS_REDIS = why_missing() is None and bool(binaries())
STORES = ["memory", "SQLite"] + ["Redis", "Redis, two servers"] * HAS_REDIS


@pytest.fixture(scope="module")
def quick() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/bench.py", "--quick"], cwd=str(ROOT),
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parts

    return parts


def test_a_quick_run_ends_well_and_complains_of_nothing(quick):
    assert (quick.returncode, quick.stderr) == (0, "")


def test_it_says_what_it_ran_on_and_what_its_figures_are_worth(quick):
    first, second = quick.stdout.splitlines()[:2]
    version = ".".join(map(str, sys.version_info[:3]))
    assert first.startswith(f"Python {version}, {os.cpu_count()} cores, ")
    assert "only the ratios count" in second


@pytest.mark.parametrize(("row", "columns"), [
    ("one at a time", 2),
    ("four requests to an empty route", 2),
    ("ratio (aim: 1.5 at p50)", 2),
    ("80 in flight, 4 users, 4 workers", 1),
    ("as many requests to an empty route", 1),
    ("submit, with no worker parked", 2),
    ("submit, with 200 workers parked", 2),
    ("wake-up: submission sent to task in hand (aim: 5 ms)", 2),
    ("the submission's own answer meanwhile", 2),
    ("10 queued", 5),
    ("1,000 queued", 5),
    ("10,000 queued", 5),
    ("ratio, last to first", 5),
    ("1,000 queued, as many models", 5),
    ("100 queued, as many models, all of another worker", 5),
])
def test_a_row_has_a_figure_in_each_column(quick, row, columns):
    assert re.search(f"^ +{re.escape(row)}({NUMBER}){{{columns}}}$", quick.stdout, re.MULTILINE)


def section(output, title):
    """The rows of the table whose title begins so."""
    return re.search(rf"^{re.escape(title)}.*\n\n((?: .*\n)+)", output, re.MULTILINE).group(1)


@pytest.mark.parametrize(("title", "columns"), [
    ("Task stores", 7),
    ("Streamed text", 7),
    ("20 readers of one stream", 3),
    ("Characters of one answer", 6),
    ("One more piece in the store itself", 3),
])
@pytest.mark.parametrize("store", STORES)
def test_each_store_has_a_figure_in_each_column(quick, title, columns, store):
    row = rf"^ +{re.escape(store)}{MAYBE_NUMBER}{{{columns}}}$"
    assert re.search(row, section(quick.stdout, title), re.MULTILINE)


def test_a_piece_that_does_not_come_to_a_reader_ends_the_run(processes):
    import streaming

    with pytest.raises(SystemExit, match="of 2 pieces, 1 came"):
        streaming._waits(iter([(1.5, "1.0 ")]), 2)


def test_reading_ollama_directly_is_measured_beside(quick):
    row = rf"^ +Ollama, read directly({NUMBER}){{4}}$"
    assert re.search(row, section(quick.stdout, "Streamed text"), re.MULTILINE)


def test_without_a_redis_the_rest_is_measured_and_its_absence_said(
    processes, monkeypatch, capsys
):
    import bench
    import store_servers

    monkeypatch.setattr(store_servers, "why_no_redis", lambda: "there is none")
    monkeypatch.setattr(bench, "alone", lambda *args: {"memory": [1.0, 1.0], "SQLite": [1.0, 1.0]})
    with store_servers.places() as places:
        bench._show_stores(bench.QUICK, places)
    assert [place.name for place in places] == ["memory", "SQLite"]
    assert capsys.readouterr().out.endswith("redis: not here: there is none\n")


@pytest.mark.parametrize("state", ["queued", "running", "completed"])
def test_the_memory_of_a_task_is_compared_with_what_the_store_counts(quick, state):
    row = rf"^ +{state}, by tracemalloc, 2,000 tasks({NUMBER}){{2}} +(yes|no)$"
    assert re.search(row, quick.stdout, re.MULTILINE)


def test_it_says_whether_the_overhead_is_an_upper_bound(quick):
    last = quick.stdout.splitlines()[-1]
    assert re.fullmatch(r"TASK_OVERHEAD_BYTES = \d+ is (NOT )?an upper bound\.", last)


@pytest.mark.parametrize("name", ["MANAGE_SERVER", "FLOOR_SERVER"])
def test_a_server_answers_while_it_is_needed_and_is_gone_when_a_measurement_fails(
    processes, name
):
    with pytest.raises(ZeroDivisionError), processes.server(*getattr(processes, name)) as url:
        assert requests.get(url, timeout=TIMEOUT_SECONDS).status_code in (200, 404)
        raise ZeroDivisionError
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=TIMEOUT_SECONDS)


def test_a_server_that_does_not_start_ends_the_run_with_its_own_words(processes):
    with pytest.raises(SystemExit, match="manage-port must be"), \
            processes.server(str(ROOT / "manage_server.py"), "--manage-port", "x"):
        pass


def test_settings_of_the_environment_do_not_change_what_is_measured(processes, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "a level that would keep it from starting")
    with processes.server(*processes.MANAGE_SERVER) as url:
        assert requests.get(f"{url}/healthz", timeout=TIMEOUT_SECONDS).status_code == 200
