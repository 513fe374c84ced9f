"""What the measurements run against and with, each in a process of its own: servers and workers.

Whatever happens in the bench, they end with it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import (
    IO,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
)

import requests

import config
from worker.manage_client import ManageClient, ServerDown
from worker.task import REQUESTED_LEASE_SECONDS

ROOT = Path(__file__).resolve().parent.parent
MANAGE_SERVER = (str(ROOT / "manage_server.py"), "--manage-port", "0")
LLM_SERVER = str(ROOT / "llm_server.py")
FAKE_OLLAMA = (str(ROOT / "benchmarks" / "fake_ollama.py"),)
FLOOR_SERVER = (str(ROOT / "benchmarks" / "floor.py"),)

MODEL = "bench"
SUBMISSION = {"prompt": "Why is the sky blue?", "model": MODEL}
RESULT = "Because of Rayleigh scattering."
WAIT_SECONDS = 25
STOP_SECONDS = 20
TIMEOUT_SECONDS = 60

# Threads of a forked process would not be those that it was forked with.
spawn = multiprocessing.get_context("spawn")


class Server(NamedTuple):
    """One that runs."""

    url: str
    pid: int


@contextlib.contextmanager
def server(*command: str) -> Iterator[str]:
    """Start a server and give its URL."""
    with servers(command) as (only,):
        yield only.url


@contextlib.contextmanager
def servers(*commands: Sequence[str]) -> Iterator[List[Server]]:
    """Start some at once."""
    with contextlib.ExitStack() as stack:
        started = []
        for command in commands:
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            started.append((command, said, stack.enter_context(program(*command, stderr=said))))
        yield [Server(_url(*one), one[-1].pid) for one in started]


def _url(command: Sequence[str], said: IO[str], process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if "listening on" not in line:
        said.seek(0)
        raise SystemExit(f"bench.py: {command[0]} did not start: {said.read()}")
    return line.split()[-1]


@contextlib.contextmanager
def program(*command: str, stderr: Optional[IO[str]] = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=stderr,
        env=_environ_without_settings(), text=True,
    )
    try:
        yield process
    finally:
        _end(process)


def cpu_seconds(pids: Iterable[int]) -> Optional[float]:
    """What these processes have used so far; None where the system does not say so."""
    try:
        # After the name, which may have spaces: fields 14 and 15 of proc(5) are times.
        of_all = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                  for pid in pids]
    except OSError:
        return None
    return sum(int(of[11]) + int(of[12]) for of in of_all) / os.sysconf("SC_CLK_TCK")


def _environ_without_settings() -> Dict[str, str]:
    """The defaults are measured, whatever is set here."""
    names = {field.name.upper() for field in dataclasses.fields(config.Settings)}
    return {name: value for name, value in os.environ.items() if name not in names}


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def alone(measure: Callable[..., Any], *args: Any) -> Any:
    """In a process of its own, where no memory is left over from what was before."""
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure, *args).result()


@contextlib.contextmanager
def workers(threads: int, *urls: str) -> Iterator[None]:
    """So many workers of each Manage Server that answer at once."""
    process = spawn.Process(target=_work, args=(threads, urls), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _work(threads: int, urls: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for url in list(urls) * threads:
        threading.Thread(target=_claim_and_answer, args=(url,)).start()


def make_worker_client(url: str) -> ManageClient:
    return ManageClient(config.Settings(manage_server_url=url))


def _claim_and_answer(url: str) -> None:
    manage_server = make_worker_client(url)
    with contextlib.suppress(ServerDown):
        while True:
            task = manage_server.get_task(
                wait=WAIT_SECONDS,
                lease=REQUESTED_LEASE_SECONDS,
                worker="bench",
                models=MODEL,
            )
            if task:
                answer(manage_server, task)


def answer(manage_server: ManageClient, task: Dict[str, Any]) -> None:
    manage_server.send_outcome(
        {"task_id": task["task_id"], "lease_id": task["lease_id"], "result": RESULT}
    )


@contextlib.contextmanager
def floor_workers(url: str, threads: int) -> Iterator[Callable[[int], Callable[[], Any]]]:
    """As many clients of the empty route, with the same requests.

    Gives a function that has each of them make so many pairs; it gives another, that waits
    until they are done.
    """
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work_floor, args=(url, threads, theirs), daemon=True)
    process.start()
    theirs.close()

    def start(pairs: int) -> Callable[[], Any]:
        ours.send(pairs)
        return ours.recv

    try:
        yield start
    finally:
        process.terminate()
        process.join()


def _work_floor(url: str, threads: int, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sessions = [make_client() for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool, contextlib.suppress(EOFError):
        while True:
            pairs = pipe.recv()
            list(pool.map(_floor_pairs, sessions, [url] * threads, [pairs] * threads))
            pipe.send(True)


def _floor_pairs(session: requests.Session, url: str, pairs: int) -> None:
    for _ in range(pairs):
        get(session, url, {"wait": str(WAIT_SECONDS), "worker": "bench", "models": MODEL})
        post(session, url, {"task_id": 1, "lease_id": "0" * 22, "result": RESULT})


def make_client() -> requests.Session:
    session = requests.Session()
    # requests would read the environment for each request.
    session.trust_env = False
    return session


def get(
    session: requests.Session, url: str, params: Optional[Dict[str, str]] = None
) -> Dict[str, Any]:
    return _json(session.get(url, params=params, timeout=TIMEOUT_SECONDS, allow_redirects=False))


def post(session: requests.Session, url: str, body: Dict[str, Any]) -> Dict[str, Any]:
    return _json(session.post(url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False))


def _json(response: requests.Response) -> Dict[str, Any]:
    if response.status_code != 200:
        raise SystemExit(f"bench.py: {response.url} answered {response.status_code}: "
                         f"{response.text.strip()}")
    body: Dict[str, Any] = response.json()
    return body
