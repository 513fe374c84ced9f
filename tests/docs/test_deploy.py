"""The files in deploy/, and an archive of the project, have all that the servers need."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, List

import pytest

from tests.docs.blocks import ROOT
from tests.support.processes import environment

PROGRAMS = ["manage_server.py", "llm_server.py", "test.py"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")


@pytest.fixture(scope="module")
def image(tmp_path_factory: Any) -> Path:
    """A folder with just the files that the Dockerfile copies into the image."""
    folder: Path = tmp_path_factory.mktemp("image")
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            place = folder / target
            if (ROOT / source).is_dir():
                shutil.copytree(str(ROOT / source), str(place),
                                ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(str(ROOT / source), str(place))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: Any) -> Path:
    """A folder with the files that `git archive` carries."""
    folder: Path = tmp_path_factory.mktemp("archive")
    path = folder / "archive.tar"
    command = ["git", "archive", "--output", str(path), "HEAD"]
    if subprocess.run(command, cwd=str(ROOT), stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this is not a git checkout")
    with tarfile.open(str(path)) as tar:
        tar.extractall(str(folder))
    return folder


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = environment({"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"})
    return subprocess.run([sys.executable, *command], cwd=str(folder), env=environ, timeout=60,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("place", ["image", "archive"])
def test_a_program_starts_from_the_copied_files(place: str, program: str, request: Any) -> None:
    done = run_in(request.getfixturevalue(place), program, "--help")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("place", ["image", "archive"])
def test_every_module_of_the_project_can_be_imported_from_the_copied_files(
    place: str, request: Any
) -> None:
    folder: Path = request.getfixturevalue(place)
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("manage", "worker", "client", "taskstore")
        for path in sorted((ROOT / package).rglob("*.py")) if path.name != "__init__.py"
    ]
    done = run_in(folder, "-c", f"import importlib, manage_server\nfor name in {names!r}:\n"
                                "    importlib.import_module(name)\n"
                                "manage_server.create_app()")
    assert done.returncode == 0, done.stdout


def test_files_that_are_not_python_are_in_the_image(image: Path) -> None:
    packages = [path for path in image.iterdir() if path.is_dir()]
    for package in packages:
        assert files_of(image / package.name) == files_of(ROOT / package.name)
    assert (image / "openapi.yaml").is_file()


def files_of(folder: Path) -> List[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file() and "__pycache__" not in path.parts)


def test_the_image_does_not_run_as_root() -> None:
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user and user[-1] not in ("root", "0")


@pytest.mark.parametrize("name", ["manage-server.service", "llm-server.service"])
def test_systemd_accepts_a_unit(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "deploy" / name).read_text("utf-8")
    # systemd-analyze checks that the program exists.
    unit = unit.replace("/opt/llm-tasks/.venv/bin/python", sys.executable)
    (tmp_path / name).write_text(unit, "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)],
                          capture_output=True, encoding="utf-8")
    complaints = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize("name", ["manage-server.service", "llm-server.service"])
def test_a_unit_starts_a_program_of_the_project(name: str) -> None:
    unit = (ROOT / "deploy" / name).read_text("utf-8")
    command = re.search(r"^ExecStart=/opt/llm-tasks/.venv/bin/python (\S+)$", unit, re.MULTILINE)
    assert command and (ROOT / command.group(1)).is_file()


def test_the_compose_file_is_well_formed_and_keeps_to_this_machine() -> None:
    yaml = pytest.importorskip("yaml")
    path = ROOT / "deploy" / "compose.yaml"
    services = yaml.safe_load(path.read_text("utf-8"))["services"]
    for name, service in services.items():
        build = service.get("build")
        assert build or service.get("image"), name
        assert not build or (path.parent / build["context"] / build["dockerfile"]).is_file(), name
        assert set(service.get("depends_on", {})) <= set(services), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    started = {service.get("command", "python manage_server.py") for service in services.values()}
    assert "python llm_server.py" in started
