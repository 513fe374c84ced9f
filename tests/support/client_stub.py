"""A scripted Manage Server for the tests of the client, and ways to run test.py against it."""
from __future__ import annotations

import contextlib
import http.server
import json
import os
import struct
import subprocess
import threading

import pytest

from tests.support import forked
from tests.support.stub_server import SOON_SECONDS

URL = "http://manage.test"
QUEUED = {"task_id": 1, "status": "Processing...", "state": "queued", "queue_position": 3}
MARKED = {"Llm-Tasks": "1"}  # the header of every answer of a Manage Server
DONE = {"task_id": 1, "result": "Rayleigh."}


def event(name="", event_id="", **data):
    """Format a server-sent event as the Manage Server does."""
    lines = [f"event: {name}"] * bool(name) + [f"id: {event_id}"] * bool(event_id)
    return "\n".join([*lines, "data: " + json.dumps(data), "", ""]).encode()


class StubServer(http.server.ThreadingHTTPServer):
    """Answers from its lists, and records the requests. The last of `answers` repeats forever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.submissions = []  # the bodies of POST /submit
        self.headers = []  # the headers of every request
        self.deleted = []  # the paths of DELETE
        self.deletions_only = []  # the query strings of DELETE
        self.deletion_answer = (200, {"task_id": 1, "status": "Cancelled."})
        self.lost = []  # paths at which to hang up, once for each time they are listed
        self.answers = [(200, DONE)]
        self.refusals = []  # of submissions: (status, body, headers), used up first
        # One list per connection: bytes to send, threading.Events to wait for, None to hang up.
        self.streams = []
        self.is_marked = True
        self.no_stream_answer = (404, {"error": "There is nothing at this path."})
        self.last_event_ids = []
        self.is_chunked = True
        self.submit_holds = []  # Events to wait for before the next submissions are answered
        self.got_a_post = threading.Event()
        self.got_a_get = threading.Event()

    def handle_error(self, request, client_address):
        """Ignore clients that disconnect."""


class StubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refusals:
            self.answer(*self.server.refusals.pop(0))
            return
        self.server.submissions.append(body)
        holds = self.server.submit_holds
        hold = holds.pop(0) if holds else None
        self.server.got_a_post.set()
        if hold:
            hold.wait(SOON_SECONDS)
        self.answer(200, {"task_id": len(set(map(json.dumps, self.server.submissions))),
                          "status": "Task submitted."})

    def do_GET(self):
        answers = self.server.answers
        if not self.path.endswith("/stream"):
            self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))
        elif self.server.streams:
            self.stream(self.server.streams.pop(0))
        else:
            self.answer(*self.server.no_stream_answer)
        self.server.got_a_get.set()

    def do_DELETE(self):
        self.path, _, query = self.path.partition("?")
        self.server.deleted.append(self.path)
        self.server.deletions_only.append(query)
        self.answer(*self.server.deletion_answer)

    def answer(self, status, body, headers=None):
        self.server.headers.append(self.headers)
        if self.path in self.server.lost:
            self.server.lost.remove(self.path)
            self.close_connection = True
            return
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_marked_headers()
        self.wfile.write(content)

    def end_marked_headers(self):
        for name, value in MARKED.items():
            if self.server.is_marked:
                self.send_header(name, value)
        self.end_headers()

    def stream(self, parts):
        self.server.last_event_ids.append(self.headers["Last-Event-ID"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if self.server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_marked_headers()
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


PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)


def run(*arguments, stdin="", **environ):
    """Run test.py without a terminal; return its exit status, stdout and stderr."""
    with forked.start("test.py", *arguments, env={**os.environ, **environ}, **PIPES) as program:
        output, errors = program.communicate(stdin.encode(), timeout=SOON_SECONDS)
    return program.returncode, output.decode().replace("\r", ""), errors.decode()


class TerminalProgram:
    """test.py, running with some or all of stdin, stdout and stderr on a pseudo-terminal."""

    def __init__(self, arguments, names, environ, columns=None):
        pty = pytest.importorskip("pty", reason="this platform has no pseudo-terminals")
        self._ours, theirs = pty.openpty()
        if columns is not None:
            import fcntl
            import termios
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE, **dict.fromkeys(names, theirs)}
        self.process = forked.start("test.py", *arguments, **streams,
                                    env={**os.environ, **environ})
        os.close(theirs)
        self._guard = threading.Timer(SOON_SECONDS, self.process.kill)
        self._guard.start()
        self._output = ""

    def read(self, until=None):
        """Return all output so far, once it contains `until` or the program has ended."""
        with contextlib.suppress(OSError):  # Linux raises this at the end of the output.
            while until is None or until not in self._output:
                chunk = os.read(self._ours, 1024).decode()
                if not chunk:
                    break
                self._output += chunk
        assert until is None or until in self._output
        return self._output

    def type(self, text):
        os.write(self._ours, text.encode())

    def hang_up(self):
        """Close the terminal."""
        os.close(self._ours)
        self._ours = os.open(os.devnull, os.O_RDWR)

    def wait(self):
        """Return the exit status."""
        return self.process.wait(SOON_SECONDS)

    def close(self):
        self.process.kill()
        self.process.communicate()
        self._guard.cancel()
        os.close(self._ours)
