"""An Ollama without a model: it writes as many pieces as the prompt asks for, evenly spaced.

The prompt is the number of pieces and the seconds between two, such as "80 0.01". A piece is the
time.monotonic() at which it was written; all processes of a machine share that clock. One thread
serves all connections, so that it takes little of the time that is measured.
"""
from __future__ import annotations

import asyncio
import json
import time
from typing import Dict, Tuple

MODEL = "stream"
ANSWERS = {
    "/api/tags": {"models": [{"name": f"{MODEL}:latest", "model": f"{MODEL}:latest"}]},
    "/api/ps": {"models": []},
    "/api/version": {"version": "0.0.0"},
    "/api/show": {},
}
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\n{}\r\n\r\n"
BACKLOG = 1000


async def serve() -> None:
    server = await asyncio.start_server(answer_requests, "127.0.0.1", 0, backlog=BACKLOG)
    host, port = server.sockets[0].getsockname()
    print(f"fake_ollama: listening on http://{host}:{port}", flush=True)
    await server.serve_forever()


async def answer_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            path, body = await read_request(reader)
            if path in ANSWERS:
                data = json.dumps(ANSWERS[path])
                writer.write((HEAD.format("application/json", f"Content-Length: {len(data)}")
                              + data).encode())
            else:
                await write_pieces(writer, *json.loads(body)["prompt"].split())
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> Tuple[str, bytes]:
    request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers: Dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value
    return request_line.split()[1], await reader.readexactly(int(headers.get("content-length", 0)))


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


if __name__ == "__main__":
    asyncio.run(serve())
