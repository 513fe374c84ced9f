"""The least that the four endpoints can cost: a sketch with Flask, on the same server, that knows
no leases, no users and no limits."""
from __future__ import annotations

import itertools
import queue
import threading
from typing import Any, Dict, Tuple

from flask import Flask, Response, jsonify, request

from manage.serving.options import Options
from manage.serving.serve import serve

THREADS = 64
MAX_BODY_BYTES = 1024 * 1024


class Task:
    def __init__(self) -> None:
        self.result = ""
        self.is_completed = threading.Event()


def create_app() -> Flask:
    app = Flask("floor", static_folder=None)
    ids = itertools.count(1)
    tasks: Dict[int, Task] = {}
    queued: queue.SimpleQueue[Tuple[int, Any]] = queue.SimpleQueue()

    @app.route("/")
    def root() -> Response:
        return jsonify({})

    @app.route("/submit", methods=["POST"])
    def submit() -> Response:
        task_id = next(ids)
        tasks[task_id] = Task()
        queued.put((task_id, request.get_json()))
        return jsonify({"task_id": task_id, "status": "Task submitted."})

    @app.route("/task")
    def claim() -> Response:
        try:
            task_id, submission = queued.get(timeout=float(request.args["wait"]))
        except queue.Empty:
            return jsonify({})
        return jsonify({"task_id": task_id, "lease_id": "", **submission})

    @app.route("/task", methods=["POST"])
    def complete() -> Response:
        outcome = request.get_json()
        task = tasks[outcome["task_id"]]
        task.result = outcome["result"]
        task.is_completed.set()
        return jsonify({"message": "Result received."})

    @app.route("/result/<int:task_id>")
    def result(task_id: int) -> Response:
        task = tasks[task_id]
        task.is_completed.wait(float(request.args["wait"]))
        del tasks[task_id]
        return jsonify({"task_id": task_id, "result": task.result})

    return app


if __name__ == "__main__":
    serve(create_app(), Options("127.0.0.1", 0, THREADS, MAX_BODY_BYTES), lambda: None)
