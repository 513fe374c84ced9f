"""The least that the four endpoints can cost: two semaphores in place of a task store."""
from __future__ import annotations

import threading
from typing import Any, Callable

from flask import Flask, Response

from manage.serving.serve import Options, serve

THREADS = 64
MAX_BODY_BYTES = 1024 * 1024


def create_app() -> Flask:
    app = Flask("floor", static_folder=None)
    submitted, completed = threading.Semaphore(0), threading.Semaphore(0)

    def add_route(method: str, path: str, act: Callable[[], Any], body: str) -> None:
        def view() -> Response:
            act()
            return app.response_class(body + "\n", mimetype="application/json")

        app.add_url_rule(path, f"{method} {path}", view, methods=[method])

    add_route("GET", "/", lambda: None, "{}")
    add_route("POST", "/submit", submitted.release, '{"task_id": 1, "status": "Task submitted."}')
    add_route("GET", "/task", submitted.acquire, '{"task_id": 1, "lease_id": "", "prompt": ""}')
    add_route("POST", "/task", completed.release, '{"message": "Result received."}')
    add_route("GET", "/result/1", completed.acquire,
              '{"task_id": 1, "result": "Because of Rayleigh scattering."}')
    return app


if __name__ == "__main__":
    serve(create_app(), Options("127.0.0.1", 0, THREADS, MAX_BODY_BYTES), lambda: None)
