"""An Ollama without a model: it writes as many pieces as the prompt asks for, evenly spaced.

The prompt is the number of pieces and the seconds between two, such as "80 0.01"; what follows them
is ignored. A piece is the time.monotonic() at which it was written; all processes of a machine
share that clock. The input of an embedding is the seconds that it takes. `GET /record?ended=9` is
answered with what the GPU has done when nine generations have ended. One thread serves all
connections, so that it takes little of the time that is measured.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any, Dict, Tuple

from benchmarks.gpu import Gpu

MODEL = "stream"
EMBEDDING = [0.0123456] * 768
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\n{}\r\n\r\n"
BACKLOG = 1000
RECORD = "/record?ended="


class Ollama:
    """Answers the requests that the worker makes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._models = options.models
        self._gpu = Gpu(options.slots, options.load_seconds)

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                path, body = await read_request(reader)
                if path in ("/api/generate", "/api/embed"):
                    await self._run(path, body, writer)
                else:
                    write_json(writer, await self._describe(path))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _run(self, path: str, body: Any, writer: asyncio.StreamWriter) -> None:
        """Write an answer while the GPU runs it."""
        model = body["model"].split(":")[0]
        prompt = body["prompt"] if path == "/api/generate" else body["input"]
        async with self._gpu.run(model, prompt):
            if path == "/api/generate":
                await write_pieces(writer, *prompt.split()[:2])
            else:
                await asyncio.sleep(float(prompt))
                write_json(writer, {"model": body["model"], "embeddings": [EMBEDDING]})

    async def _describe(self, path: str) -> Any:
        if path.startswith(RECORD):
            return (await self._gpu.record(int(path[len(RECORD):])))._asdict()
        loaded = filter(None, [self._gpu.loaded])
        return {
            "/api/tags": {"models": list(map(list_entry, self._models))},
            "/api/ps": {"models": list(map(list_entry, loaded))},
            "/api/version": {"version": "0.0.0"},
        }.get(path, {})


async def serve(options: argparse.Namespace) -> None:
    ollama = Ollama(options)
    server = await asyncio.start_server(ollama.serve_connection, "127.0.0.1", 0, backlog=BACKLOG)
    host, port = server.sockets[0].getsockname()
    print(f"fake_ollama: listening on http://{host}:{port}", flush=True)
    await server.serve_forever()


async def read_request(reader: asyncio.StreamReader) -> Tuple[str, Any]:
    """Return the path, and the body if there is one."""
    request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers: Dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return request_line.split()[1], json.loads(body) if body else None


def list_entry(model: str) -> Dict[str, str]:
    return {"name": f"{model}:latest", "model": f"{model}:latest"}


def write_json(writer: asyncio.StreamWriter, body: Any) -> None:
    data = json.dumps(body)
    length = f"Content-Length: {len(data)}"
    writer.write((HEAD.format("application/json", length) + data).encode())


async def write_pieces(writer: asyncio.StreamWriter, pieces: str, pace_seconds: str) -> None:
    head = HEAD.format("application/x-ndjson", "Transfer-Encoding: chunked")
    loop = asyncio.get_event_loop()
    due_at = loop.time()
    for number in range(int(pieces)):
        line = json.dumps({"response": f"{time.monotonic():.6f} ", "done": False}) + "\n"
        writer.write((head * (not number) + chunk(line)).encode())
        await writer.drain()
        due_at += float(pace_seconds)
        await asyncio.sleep(due_at - loop.time())
    last = json.dumps({"response": "", "done": True}) + "\n"
    writer.write((chunk(last) + "0\r\n\r\n").encode())


def chunk(line: str) -> str:
    return f"{len(line):x}\r\n{line}\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[MODEL])
    parser.add_argument("--slots", type=int, default=sys.maxsize)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
