"""Every command in the documentation works, and prints what the documentation shows."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import config
from tests.docs.blocks import DOCUMENTS, ROOT, Step, Story, stories
from tests.docs.compare import check_output
from tests.docs.shell import Shell

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("bash") is None or shutil.which("curl") is None,
                       reason="the commands need bash and curl"),
]

REQUIREMENTS = ["requirements.txt", "tests/requirements.txt", "tests/clients.txt",
                "tests/page/requirements.txt", "demo/requirements.txt"]
STORIES = [story for document in DOCUMENTS for story in stories(document)]

SERVERS = re.compile(
    r"(\w+=\S+\s+(\\\n\s*)?)*python (manage_server|llm_server)\.pyz?(?! --(help|check))"
)
RUN = re.compile(r"(\w+=\S+\s+(\\\n\s*)?)*(curl|python test\.py|python \w+\.py --(help|check)"
                 r"|python3 -c) ?")
# These need what a test has not: Ollama, root, another machine, the network, or much time.
NOT_RUN = re.compile(r"ollama (pull|run) |scp llm_server\.pyz |python3 -m venv \.venv$"
                     r"|\. \.venv/bin/activate$|\.venv/bin/\w|\.ci/run")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title)
def test_the_commands_of_a_section_work(
    story: Story, shell: Shell, tmp_path: Path, request: Any
) -> None:
    commands = "\n".join(step.command for step in story.steps)
    if "redis://" in commands:
        shell.replace("redis://localhost:6379/0", request.getfixturevalue("redis_url"))
    if "python llm_server.pyz" in commands:
        single_file = str(tmp_path / "llm_server.pyz")
        shell.run(f"python deploy/build_worker.py {single_file}")
        shell.replace("llm_server.pyz", single_file)
    for step in story.steps:
        try:
            _follow(step, shell)
        except (AssertionError, subprocess.SubprocessError) as error:
            pytest.fail(f"{step.place}: {step.command}\n{error}")


def _follow(step: Step, shell: Shell) -> None:
    command = step.command
    if step.language == "python":
        _follow_python(command, shell)
    elif SERVERS.match(command):
        shell.serve(command)
    elif RUN.match(command):
        if "curl" in command and not shell.server_url:
            shell.serve("python manage_server.py")
        output = shell.run(command)
        if step.language == "console":
            check_output(output, step.output, shell.replace)
    elif not NOT_RUN.match(command):
        _check_unrun(command)
    for path in re.findall(r" (?:-r|--file) (\S+)", command):
        assert (ROOT / path).is_file(), f"{path} is missing"


def _follow_python(program: str, shell: Shell) -> None:
    shell.serve("python manage_server.py")
    if "while True:" in program:
        shell.serve(f"python - <<'END'\n{program}\nEND")
    else:
        shell.serve("python llm_server.py")
        shell.run(f"python - <<'END'\n{program}\nEND")


def _check_unrun(command: str) -> None:
    """Check the names in a command that a test cannot run. Fails for any other command."""
    target = re.match(r"make (\w+)", command)
    packages = re.match(r"pip install (?!-)(.*)", command)
    unit = re.match(r"sudo (?:cp deploy/(\S+)\.service /etc/systemd/system/"
                    r"|systemctl enable --now (\S+))$", command)
    if target:
        _check_target(target.group(1))
    elif packages:
        known = "".join((ROOT / path).read_text("utf-8") for path in REQUIREMENTS)
        for package in packages.group(1).split():
            assert re.search(rf"^{package}\b", known, re.MULTILINE | re.IGNORECASE), package
    elif unit:
        assert (ROOT / "deploy" / f"{unit.group(1) or unit.group(2)}.service").is_file()
    else:
        known = re.match(r"docker (compose|build) --file |pip install -r ", command)
        assert known, "no test knows what to do with this command"


def _check_target(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "--dry-run", target], cwd=str(ROOT), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, encoding="utf-8")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda document: document.name
)
def test_every_make_target_that_the_text_mentions_exists(document: Path) -> None:
    for target in sorted(set(re.findall(r"`make (\w+)", document.read_text("utf-8")))):
        _check_target(target)


def test_the_model_in_the_readme_is_the_default_model() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    models = set(re.findall(r"^ollama \w+ (\S+)", readme, re.MULTILINE))
    assert models == {config.Settings().default_model}


def test_make_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    from tests.support import small_model
    from tests.support.processes import environment

    story = next(story for story in STORIES if story.title == "README.md: Try It")
    step = next(step for step in story.steps if step.command == "make demo")
    prompt = re.search(r"python test.py '(.*)'", step.output)
    assert prompt
    done = subprocess.run(
        [small_model.python(), "demo/run.py", prompt.group(1)], cwd=str(ROOT), timeout=120,
        env=environment({"OLLAMA_HOST": "127.0.0.1:9"}), stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert _without_numbers(done.stdout).replace(_answer(done.stdout), _answer(step.output)) \
        == _without_numbers(step.output) + "\n"


def _answer(output: str) -> str:
    return next(line for line in output.splitlines() if not line.startswith("["))


def _without_numbers(output: str) -> str:
    output = re.sub(r"^\[ *[\d.]+ s\]", "[]", output, flags=re.MULTILINE)
    output = re.sub(r"It answered: .*", "It answered", output)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:port", output)
