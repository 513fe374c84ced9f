"""What the tests of the client share: a Manage Server that does as it is told, and a terminal."""
from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

URL = "http://manage.test"
PROGRAM = str(Path(__file__).resolve().parents[2] / "test.py")
SOON_SECONDS = 15
QUEUED = {"task_id": 1, "status": "Processing...", "state": "queued", "queue_position": 3}
DONE = {"task_id": 1, "result": "Rayleigh."}


def event(name="", event_id="", **data):
    """A server-sent event, as the Manage Server writes it."""
    lines = [f"event: {name}"] * bool(name) + [f"id: {event_id}"] * bool(event_id)
    return "\n".join([*lines, "data: " + json.dumps(data), "", ""]).encode()


class StubServer(http.server.ThreadingHTTPServer):
    """What it is to answer is in its lists; of `answers`, the last one is for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.submissions = []  # bodies
        self.headers = []  # of all requests
        self.deleted = []  # paths
        self.lost = []  # paths of requests to hang up on, once each
        self.answers = [(200, DONE)]
        # One for each connection: bytes, events of threading to wait for, None for a broken line.
        self.streams = []
        self.without_streams = (404, {"error": "There is nothing at this path."})
        self.last_event_ids = []
        self.is_chunked = True
        self.asked = threading.Event()

    def handle_error(self, request, client_address):
        """The client may go at any time."""


class StubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.submissions.append(body)
        self.answer(200, {"task_id": len(set(map(json.dumps, self.server.submissions))),
                          "status": "Task submitted."})

    def do_GET(self):
        answers = self.server.answers
        if not self.path.endswith("/stream"):
            self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))
        elif self.server.streams:
            self.stream(self.server.streams.pop(0))
        else:
            self.answer(*self.server.without_streams)
        self.server.asked.set()

    def do_DELETE(self):
        self.server.deleted.append(self.path)
        self.answer(200, {"task_id": 1, "status": "Cancelled."})

    def answer(self, status, body):
        self.server.headers.append(self.headers)
        if self.path in self.server.lost:
            self.server.lost.remove(self.path)
            self.close_connection = True
            return
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self, parts):
        self.server.last_event_ids.append(self.headers["Last-Event-ID"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if self.server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        for part in parts:
            if isinstance(part, threading.Event):
                part.wait(SOON_SECONDS)
            elif part is None:
                return
            else:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if self.server.is_chunked
                                 else part)
        if self.server.is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments):
        pass


def run(*arguments, stdin="", **environ):
    """The program without a terminal: exit status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments], input=stdin.encode(), timeout=SOON_SECONDS,
        capture_output=True, env={**os.environ, **environ},
    )
    return done.returncode, done.stdout.decode().replace("\r", ""), done.stderr.decode()


class OnTerminal:
    """The program on a pseudo-terminal, with all of stdin, stdout and stderr or with some."""

    def __init__(self, arguments, names, environ):
        pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
        self._ours, theirs = pty.openpty()
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE, **dict.fromkeys(names, theirs)}
        self.process = subprocess.Popen([sys.executable, PROGRAM, *arguments], **streams,
                                        env={**os.environ, **environ})
        os.close(theirs)
        self._guard = threading.Timer(SOON_SECONDS, self.process.kill)
        self._guard.start()
        self._seen = ""

    def read(self, until=None):
        """All that was shown, up to a text, or to the end."""
        with contextlib.suppress(OSError):  # Linux says so when the program has closed it
            while until is None or until not in self._seen:
                chunk = os.read(self._ours, 1024).decode()
                if not chunk:
                    break
                self._seen += chunk
        assert until is None or until in self._seen
        return self._seen

    def type(self, text):
        os.write(self._ours, text.encode())

    def status(self):
        return self.process.wait(SOON_SECONDS)

    def close(self):
        self.process.kill()
        self.process.communicate()
        self._guard.cancel()
        os.close(self._ours)


