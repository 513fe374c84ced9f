"""An Ollama without a model: it writes as many pieces as the prompt asks for, 10 ms apart.

A piece is the time.monotonic() at which it was written; all processes of a machine share that
clock.
"""
from __future__ import annotations

import json
import time
from typing import Any, Dict, Iterator

from flask import Flask, Response, request

from manage.serving.serve import Options, serve

MODEL = "stream"
PACE_SECONDS = 0.01
THREADS = 16
MAX_BODY_BYTES = 1024 * 1024


def create_app() -> Flask:
    app = Flask("fake_ollama", static_folder=None)

    @app.get("/api/tags")
    def tags() -> Dict[str, Any]:
        return {"models": [{"name": f"{MODEL}:latest"}]}

    @app.post("/api/generate")
    def generate() -> Response:
        pieces = int(request.get_json(force=True)["prompt"])
        return app.response_class(write(pieces), mimetype="application/x-ndjson")

    return app


def write(pieces: int) -> Iterator[str]:
    for _ in range(pieces):
        time.sleep(PACE_SECONDS)
        yield json.dumps({"response": f"{time.monotonic():.6f} ", "done": False}) + "\n"
    yield json.dumps({"response": "", "done": True}) + "\n"


if __name__ == "__main__":
    serve(create_app(), Options("127.0.0.1", 0, THREADS, MAX_BODY_BYTES), lambda: None)
