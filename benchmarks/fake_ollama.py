"""An Ollama that has no model: it writes as many pieces as the prompt says, at the pace it says.

Each piece of a paced answer is the time.monotonic() at which it was written: the clock is the
same for all processes of a machine. Without a pace each is of four characters.
"""
from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator

MODEL = "stream"
PIECE = "word"
PIECES_A_PACKET = 64


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = json.dumps({"models": [{"name": f"{MODEL}:latest"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for packet in _packets(**json.loads(asked["prompt"])):
            self.wfile.write(packet)
        self.wfile.write(_chunk("", True) + b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


def _packets(pieces: int, pace_seconds: float, first_after_seconds: float) -> Iterator[bytes]:
    if not pace_seconds:
        for begin in range(0, pieces, PIECES_A_PACKET):
            yield _chunk(PIECE) * min(PIECES_A_PACKET, pieces - begin)
        return
    began_at = time.monotonic() + first_after_seconds
    for number in range(pieces):
        time.sleep(max(0.0, began_at + number * pace_seconds - time.monotonic()))
        yield _chunk(f"{time.monotonic():.6f} ")


def _chunk(text: str, done: bool = False) -> bytes:
    line = json.dumps({"model": MODEL, "response": text, "done": done}).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(line), line)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"fake_ollama: listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
