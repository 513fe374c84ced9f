"""The worker where only requests is installed: from a checkout, and as llm_server.pyz."""
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, List, Set

import pytest

from tests.support.processes import ROOT, TIMEOUT_SECONDS, environment
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama

try:
    from importlib import metadata
except ImportError:  # Python 3.7
    import importlib_metadata as metadata

BUILD = str(ROOT / "deploy" / "build_worker.py")


@pytest.fixture(scope="module")
def only_requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with requests, its dependencies, and no other package."""
    folder = tmp_path_factory.mktemp("only-requests")
    copied: Set[str] = set()
    copy_distribution("requests", folder, copied)
    assert "requests" in copied and "urllib3" in copied
    return folder


def copy_distribution(name: str, folder: Path, copied: Set[str]) -> None:
    """Copy the files of an installed distribution, and of those it requires, to a folder."""
    if name in copied:
        return
    distribution = metadata.distribution(name)
    copied.add(name)
    for file in distribution.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), str(target))
    for requirement in distribution.requires or ():
        required = re.match(r"[\w.-]+", requirement)
        if required and "extra ==" not in requirement:
            copy_distribution(required.group(), folder, copied)


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pyz") / "llm_server.pyz"
    subprocess.run([sys.executable, BUILD, str(target)], check=True, timeout=TIMEOUT_SECONDS)
    return target


@pytest.fixture(params=["checkout", "pyz"])
def program(request: pytest.FixtureRequest, pyz: Path) -> Path:
    return ROOT / "llm_server.py" if request.param == "checkout" else pyz


@pytest.fixture
def start(
    only_requests: Path, tmp_path: Path, ollama: StubOllama, manage: StubManageServer
) -> Any:
    """Start Python in an empty folder, without site-packages; kill it at the end."""
    processes: List[Any] = []

    def start(*arguments: Any, **environ: str) -> Any:
        processes.append(subprocess.Popen(
            # -S leaves out site-packages, so that PYTHONPATH has all that is installed.
            [sys.executable, "-S", *map(str, arguments)], cwd=str(tmp_path),
            env=environment({"PYTHONPATH": str(only_requests), "MANAGE_SERVER_URL": manage.url,
                             "OLLAMA_HOST": ollama.url, **environ}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def finish(process: Any) -> Any:
    """Wait for the process to end; return exit code, stdout and stderr."""
    output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, output, errors


def test_flask_is_not_installed_in_these_tests(start: Any) -> None:
    code, _, errors = finish(start("-c", "import requests, flask"))
    assert code == 1 and "No module named 'flask'" in errors


def test_a_task_is_claimed_run_and_delivered(
    program: Path, start: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    process = start(program, WORKER_NAME="gpu-1")
    manage.submit(7)
    call = ollama.next_call()
    call.write({"response": "the ", "done": False})
    manage.wait_until(lambda: manage.kept_text(7) == [("text", "the ")])
    call.finish("answer")
    outcome = manage.next_outcome()
    assert (outcome["task_id"], outcome["result"]) == (7, "the answer")
    process.send_signal(signal.SIGTERM)
    code, output, errors = finish(process)
    assert (code, output) == (0, "")
    assert "task 7: completed after" in errors and "worker gpu-1: stopped" in errors


def test_help_lists_the_settings(pyz: Path, start: Any) -> None:
    code, output, errors = finish(start(pyz, "--help"))
    assert (code, errors) == (0, "")
    assert "--manage-server-url" in output and "--check" in output


def test_check_reports_that_the_worker_is_ready(
    pyz: Path, start: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    assert finish(start(pyz, "--check")) == (0, (
        f"Manage Server  {manage.url}  ok, queued tasks: 0\n"
        f"Ollama         {ollama.url}  ok\n"
        "Models         llama3:latest\n"
        "Ready to run tasks.\n"
    ), "")


def test_a_setting_that_cannot_be_used_exits_with_2_and_one_line(
    pyz: Path, start: Any, tmp_path: Path
) -> None:
    missing = str(tmp_path / "nope.pem")
    for arguments in ([pyz], [pyz, "--check"]):
        code, output, errors = finish(start(
            *arguments, MANAGE_SERVER_URL="https://127.0.0.1:1", REQUESTS_CA_BUNDLE=missing))
        assert (code, output, errors.count("\n")) == (2, "", 1)
        assert errors.startswith("llm_server.py: REQUESTS_CA_BUNDLE names ") and missing in errors


def test_the_file_holds_the_worker_its_settings_and_no_more(pyz: Path) -> None:
    modules = [str(path.relative_to(ROOT).as_posix())
               for folder in ("console", "transport", "worker")
               for path in (ROOT / folder).rglob("*.py")]
    with zipfile.ZipFile(str(pyz)) as archive:
        assert sorted(archive.namelist()) == sorted([
            "__main__.py", "config.py", "llm_server.py", *modules
        ])


def test_two_builds_are_equal_byte_by_byte(pyz: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, BUILD, str(again)], check=True, timeout=TIMEOUT_SECONDS)
    assert again.read_bytes() == pyz.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit and no #! line")
def test_the_file_can_be_executed(pyz: Path) -> None:
    assert os.access(str(pyz), os.X_OK)
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_worker_builds_the_file() -> None:
    commands = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "worker", "PYTHON=python"],
        cwd=str(ROOT), check=True, stdout=subprocess.PIPE, text=True, timeout=SOON_SECONDS,
    )
    assert commands.stdout == "python deploy/build_worker.py\n"
