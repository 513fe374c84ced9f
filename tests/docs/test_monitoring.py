"""The alerts and the dashboard in deploy/ use figures that there are."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Iterator, List, Set

import pytest
import yaml

from manage import metrics
from manage_server import create_app
from taskstore import MemoryStore
from tests.docs.blocks import ROOT
from tests.support.services import require_service

DEPLOY = ROOT / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
CONFIGURATION = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))
JOB = CONFIGURATION["scrape_configs"][0]["job_name"]
# Those of every target.
OTHERS = {"up", "process_resident_memory_bytes"}



@pytest.fixture(scope="module")
def content() -> bytes:
    """The figures of a new server."""
    require_service("prometheus-client is not installed" if metrics.prometheus is None else None)
    store = MemoryStore()
    found = create_app(store=store).test_client().get("/metrics").data
    store.close()
    return bytes(found)


@pytest.fixture(scope="module")
def names(content: bytes) -> Set[str]:
    """The names of all series."""
    families = dict(re.findall(r"^# TYPE (llm_\S+) (\S+)$", content.decode(), re.M))
    histograms = {name for name, kind in families.items() if kind == "histogram"}
    return set(families) - histograms | {
        name + end for name in histograms for end in ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    require_service("promtool is not installed" if found is None else None)
    return str(found)


def expressions() -> Iterator[str]:
    for group in ALERTS["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_expression_uses_series_that_exist(names: Set[str]) -> None:
    for expression in expressions():
        used = set(re.findall(r"\b((?:llm|process)_\w+|up)\b", expression))
        assert used and used <= names | OTHERS, expression


def test_the_documentation_names_every_series(names: Set[str]) -> None:
    table = (ROOT / "docs" / "deploying.md").read_text("utf-8").replace("`...", "`llm_tasks")
    # The last prometheus-client for Python 3.7 cannot leave out when each was created.
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names
                if not name.endswith("_created")}
    assert families == set(re.findall(r"`(llm_\w+)`", table))


def test_every_expression_means_the_job_of_the_example() -> None:
    jobs = [job for expression in expressions() for job in re.findall(r'job="(.*?)"', expression)]
    assert jobs and set(jobs) == {JOB}


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


@pytest.mark.parametrize("command", [
    ["check", "rules", "alerts.yaml"],
    ["check", "config", "--syntax-only", "prometheus.yml"],
    ["test", "rules", "../tests/docs/alerts_test.yaml"],
])
def test_promtool_accepts_the_files(promtool: str, command: List[str]) -> None:
    run = subprocess.run([promtool, *command], cwd=str(DEPLOY), stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, encoding="utf-8")
    assert run.returncode == 0, run.stdout


def test_promtool_accepts_the_figures(promtool: str, content: bytes) -> None:
    run = subprocess.run([promtool, "check", "metrics"], input=content, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    assert (run.returncode, run.stdout) == (0, b"")
