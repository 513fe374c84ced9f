"""The documentation covers every setting, endpoint and file, and its links lead somewhere."""
from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest

import config
import manage_server
from tests.docs.blocks import DOCUMENTS, ROOT, stories

README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")
SECTIONS = ["Requirements", "Installation", "Setting Up Ollama", "Running the Servers",
            "How It Works", "API Endpoints", "File Descriptions", "License"]
# What every repository has needs no description.
SELF_EXPLANATORY = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "requirements.txt",
                    "pyproject.toml", ".gitignore", ".gitattributes", ".ci", ".dockerignore"}


def anchors(document: Path) -> Set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("field", dataclasses.fields(config.Settings), ids=lambda f: f.name)
def test_a_setting_is_listed_once_with_its_default_and_meaning(field: Any) -> None:
    metadata = field.metadata
    row = f"| `{field.name.upper()}` | {metadata['shown']} | {metadata['meaning']} |\n"
    assert SETTINGS.count(row) == 1


def test_only_settings_that_exist_are_listed() -> None:
    known = {field.name.upper() for field in dataclasses.fields(config.Settings)}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", SETTINGS, re.MULTILINE)) == known


@pytest.mark.parametrize("section", SECTIONS)
def test_the_readme_has_the_section_and_an_entry_for_it_in_the_contents(section: str) -> None:
    assert f"\n## {section}\n" in README
    assert f"- [{section}](#{section.lower().replace(' ', '-')})\n" in README


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_to_a_file_or_a_section_leads_there(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text("utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_no_line_is_longer_than_100_columns(document: Path) -> None:
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        assert len(line) <= 100, f"{document.name}:{number}"


def test_every_endpoint_has_an_example_or_shares_one() -> None:
    """The many endpoints of Ollama that are relayed, or refused, share a view and an example."""
    commands = [step.command for document in DOCUMENTS for story in stories(document)
                for step in story.steps if step.command.startswith("curl ")]
    examples: Dict[Any, List[str]] = {}
    for route in itertools.chain(*manage_server.ALL_ROUTES):
        # The name of a model is in place of a number.
        path = re.escape(re.sub(r"<[^>]*>", "N", route.path)).replace("N", r"[\w.]+")
        examples.setdefault(route.view, []).extend(
            command for command in commands if route.method == method_of(command)
            and re.search(rf"localhost:5000{path}(['?\s]|$)", command))
    assert [view.__name__ for view, found in examples.items() if not found] == []


def method_of(command: str) -> str:
    """Return the HTTP method of a curl command."""
    given = re.search(r"-X (\w+)", command)
    return given.group(1) if given else "POST" if " -d " in command else "GET"


def test_every_file_and_folder_of_the_top_level_is_described() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=str(ROOT), stdout=subprocess.PIPE,
                            encoding="utf-8")
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    described = set(re.findall(r"^\| `([\w.]+)/?` \|", README, re.MULTILINE))
    assert names - described - SELF_EXPLANATORY == set()


def test_every_file_and_folder_that_is_described_exists() -> None:
    table = README[README.index("## File Descriptions"):]
    names = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    assert {name for name in names if not (ROOT / name).exists()} == set()
