"""A task of a Manage Server in a process, and readers of its stream over HTTP."""
from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from tests.support.processes import TIMEOUT_SECONDS, ask
from tests.support.sse import Comment, Event, Transcript, parse


class StreamingServer:
    """A Manage Server in a process, and the worker of the only task that runs."""

    def __init__(self, process):
        self.process = process
        self.url = process.url()
        self.path = ""
        self.lease_id = ""
        self.offset = 0

    def ask(self, method, path, body=None):
        answer = ask(self.url, method, path, body)
        assert answer.status == 200, answer
        return answer.body

    def start_task(self):
        self.path = "/result/{task_id}".format(**self.ask("POST", "/submit", {"prompt": "hi"}))
        self.claim()

    def claim(self):
        task = self.ask("GET", "/task")
        assert self.path == f"/result/{task['task_id']}"
        self.lease_id = task["lease_id"]
        self.offset = 0

    def send(self, text):
        body = {"lease_id": self.lease_id, "offset": self.offset, "text": text}
        progress = self.path.replace("/result/", "/task/") + "/progress"
        self.offset = self.ask("POST", progress, body)["offset"]

    def finish(self, **outcome):
        task_id = int(self.path.rpartition("/")[2])
        self.ask("POST", "/task", {"task_id": task_id, "lease_id": self.lease_id, **outcome})


class Reader:
    """A connection that reads the stream of the task."""

    def __init__(self, server, last_id=""):
        self._connection = http.client.HTTPConnection(
            urlsplit(server.url).netloc, timeout=TIMEOUT_SECONDS)
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self._connection.request("GET", server.path + "/stream", headers=headers)
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        self.items = parse(iter(self.response.readline, b""))

    def next_event(self, name):
        return next(item for item in self.items if isinstance(item, Event) and item.name == name)

    def is_held(self):
        """Whether the stream stays open, in which case a comment follows what there was."""
        return any(item == Comment("still here") for item in self.items)

    def read_to_the_end(self):
        return Transcript().add_all(item for item in self.items if isinstance(item, Event))

    def close(self):
        # Both hold the socket, which stays open until both are closed.
        self.response.close()
        self._connection.close()
