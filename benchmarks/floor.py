"""The least that a Flask app costs: a route that does nothing, served like the Manage Server."""
from __future__ import annotations

import sys
from pathlib import Path

from flask import Flask, Response

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config
from manage.serving.serve import serve

BODY = b'{"task_id": 1, "status": "Task submitted."}\n'


def create_app() -> Flask:
    app = Flask("floor", static_folder=None)

    @app.route("/", methods=["GET", "POST"])
    def nothing() -> Response:
        return app.response_class(BODY, mimetype="application/json")

    return app


if __name__ == "__main__":
    serve(create_app(), "127.0.0.1", 0, config.Settings().manage_threads, config.MIB, lambda: None)
