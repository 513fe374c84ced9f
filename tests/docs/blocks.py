"""The code blocks of the documentation, taken apart into commands; it runs nothing."""
from __future__ import annotations

import shlex
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple, Union

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


Block = Tuple[str, List[str]]  # language and lines


class Step(NamedTuple):
    """A shell command or a Python program from a document, and the output shown for it."""

    place: str
    """Document and line, such as `README.md:42`."""
    language: str
    command: str
    output: str


class Story(NamedTuple):
    """The steps of one section, which run in order against the same servers."""

    title: str
    steps: List[Step]


def stories(document: Path) -> Iterator[Story]:
    """Yield the sections of a document (those with `##`) that have commands."""
    story = Story(document.name, [])
    for number, text in _parts(document):
        if isinstance(text, str):
            if story.steps:
                yield story
            story = Story(f"{document.name}: {text}", [])
        else:
            story.steps.extend(_steps(f"{document.name}:{number}", *text))
    if story.steps:
        yield story


def _parts(document: Path) -> Iterator[Tuple[int, Union[str, Block]]]:
    """Yield headings and blocks, each with the number of its first line."""
    block: Optional[Block] = None
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        if line.startswith("```"):
            if block is None:
                block = (line[3:], [])
            else:
                yield number - len(block[1]), block
                block = None
        elif block is not None:
            block[1].append(line)
        elif line.startswith("## "):
            yield number, line[3:]


def _steps(place: str, language: str, lines: List[str]) -> Iterator[Step]:
    if language == "python":
        yield Step(place, language, "\n".join(lines), "")
    elif language == "sh":
        for command in _commands(lines):
            yield Step(place, language, command, "")
    elif language == "console":
        yield from _transcript(place, lines)
    else:
        assert language == "text", f"{place}: a block of {language!r} is not checked by any test"


def _commands(lines: List[str]) -> Iterator[str]:
    """Yield the commands of a block, each with its continuation lines."""
    command: List[str] = []
    for line in lines:
        command.append(line)
        if not _is_open("\n".join(command)):
            yield "\n".join(command)
            command = []
    assert not command, f"this command has no end: {command}"


def _transcript(place: str, lines: List[str]) -> Iterator[Step]:
    """Yield the commands after `$`, with their continuation lines, and their output."""
    command, output = "", []
    for line in lines:
        if line.startswith("$ "):
            if command:
                yield Step(place, "console", command, "\n".join(output))
            command, output = line[2:], []
        elif _is_open(command) and not output:
            command += "\n" + line
        else:
            output.append(line)
    yield Step(place, "console", command, "\n".join(output))


def _is_open(command: str) -> bool:
    """Return whether a shell would wait for another line of the command."""
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False
