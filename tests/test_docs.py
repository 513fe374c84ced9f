"""What the README and the deploy files say is so."""
from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
import manage_server

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = ["Requirements", "Installation", "Setting Up Ollama", "Running the Servers",
            "How It Works", "API Endpoints", "File Descriptions", "License"]


@pytest.mark.parametrize("field", dataclasses.fields(config.Settings), ids=lambda f: f.name)
def test_the_table_of_settings_has_each_with_its_default_and_meaning(field):
    meaning = field.metadata["meaning"].replace("|", "\\|")
    row = f"| `{field.name.upper()}` | {field.metadata['shown']} | {meaning} |"
    assert row in README


def test_the_readme_is_finished():
    assert "@@" not in README and "<!--" not in README


def test_the_table_of_settings_has_no_other():
    known = {field.name.upper() for field in dataclasses.fields(config.Settings)}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE)) == known


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_there_and_in_the_table_of_contents(section):
    assert f"\n## {section}\n" in README
    assert f"- [{section}](#{section.lower().replace(' ', '-')})\n" in README


def test_every_link_of_the_table_of_contents_leads_to_a_section():
    for anchor in re.findall(r"^- \[.*\]\(#(.*)\)$", README, re.MULTILINE):
        titles = re.findall(r"^##+ (.*)$", README, re.MULTILINE)
        assert anchor in [title.lower().replace(" ", "-") for title in titles]


def test_every_endpoint_has_a_curl_line():
    app = manage_server.create_app(config.Settings())
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]*>", "1", rule.rule)
        assert re.search(rf"^ *\$ curl .*localhost:5000{re.escape(path)}[?' \n]", README,
                         re.MULTILINE), rule.rule


def test_every_top_level_entry_is_described():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    described = set(re.findall(r"^\| `([\w.]+)/?` \|", README, re.MULTILINE))
    said_elsewhere = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
                      "requirements.txt", "pyproject.toml", ".gitignore", ".ci", ".dockerignore"}
    assert names - described - said_elsewhere == set()


def test_every_file_that_is_described_is_there():
    table = README[README.index("## File Descriptions"):]
    for name in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["manage-server.service", "llm-server.service"])
def test_systemd_takes_the_units(name, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    # It wants to see the program.
    unit = unit.replace("/opt/llm-tasks/.venv/bin/python", sys.executable)
    (tmp_path / name).write_text(unit, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)],
                          capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, said) == (0, [])


def test_the_image_has_what_the_servers_need_and_runs_as_nobody():
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    copied = set(" ".join(re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)).split())
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert copied == modules | packages | {"openapi.yaml"}
    assert text.index("USER tasks") < text.index("CMD [\"python\", \"manage_server.py\"]")
    assert "HEALTHCHECK" in text


def test_the_compose_file_has_the_three_and_asks_for_tokens():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    assert set(services) == {"manage", "redis", "worker", "ollama"}
    assert "?set USER_TOKENS" in services["manage"]["environment"]["USER_TOKENS"]
    assert services["manage"]["read_only"] and services["worker"]["read_only"]
    assert all("127.0.0.1:" in port for port in services["manage"]["ports"])
