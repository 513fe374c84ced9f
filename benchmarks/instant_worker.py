"""Workers that answer every task at once: `instant_worker.py URL...` runs four for each server."""
from __future__ import annotations

import sys
import threading

import requests

from tests.support.processes import TIMEOUT_SECONDS

MODEL = "bench"
RESULT = "Because of Rayleigh scattering."
WORKERS = 4
WAIT_SECONDS = 25


def make_session() -> requests.Session:
    session = requests.Session()
    # Otherwise requests reads the environment and ~/.netrc for each request.
    session.trust_env = False
    return session


def work(url: str) -> None:
    session = make_session()
    params = {"wait": str(WAIT_SECONDS), "lease": "30", "worker": "bench", "models": MODEL}
    while True:
        task = session.get(f"{url}/task", params=params, timeout=TIMEOUT_SECONDS).json()
        if task:
            outcome = {key: task[key] for key in ("task_id", "lease_id")}
            session.post(f"{url}/task", json={**outcome, "result": RESULT},
                         timeout=TIMEOUT_SECONDS).raise_for_status()


if __name__ == "__main__":
    for url in sys.argv[1:] * WORKERS:
        threading.Thread(target=work, args=(url,)).start()
