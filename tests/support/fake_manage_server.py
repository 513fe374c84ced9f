"""A Manage Server in memory for the tests of batches, and a terminal that records."""
from __future__ import annotations

import io
import json
import re

from client.terminal import Terminal
from tests.support.client_stub import MARKED, URL


class FakeManageServer:
    """POST /submit, and GET and DELETE /result, over mocked HTTP.

    `answer(prompt)` returns the result's body, or None while the task isn't final. Any `outages`
    are used up first: exceptions to raise, or answers as (status, body), or (status, text) for
    those of something in between.
    """

    def __init__(self, web):
        self.submissions = []  # the bodies of POST /submit
        self.cancelled = []  # task ids
        self.most_in_flight = 0
        self.restarts_after = None  # how many submissions it takes before ids start at 1 again
        self.outages = []
        self.answer = lambda prompt: {"result": "echo " + prompt}
        self._prompts = {}  # by task id
        self._in_flight = set()
        for method, path, view in (("POST", "/submit", self._submit),
                                   ("GET", "/result/", self._get),
                                   ("DELETE", "/result/", self._cancel)):
            web.add_callback(method, re.compile(re.escape(URL + path)), self._or_outage(view))

    def forget(self, task_id):
        self._prompts.pop(task_id, None)

    def _or_outage(self, view):
        def respond(request):
            outage = self.outages.pop(0) if self.outages else None
            if isinstance(outage, Exception):
                raise outage
            status, body = outage or view(request)
            if isinstance(body, str):
                return status, {}, body
            return status, MARKED, json.dumps(body)
        return respond

    def _submit(self, request):
        body = json.loads(request.body)
        if len(self.submissions) == self.restarts_after:
            self._prompts.clear()
        self.submissions.append(body)
        task_id = len(self._prompts) + 1
        self._prompts[task_id] = body["prompt"]
        self._in_flight.add(task_id)
        self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
        return 200, {"task_id": task_id, "status": "Task submitted."}

    def _get(self, request):
        task_id = int(re.search(r"/result/(\d+)", request.url).group(1))
        if task_id not in self._prompts:
            return 404, {"error": "Task not found."}
        answer = self.answer(self._prompts[task_id])
        if answer is None:
            return 202, {"task_id": task_id, "status": "Processing..."}
        self._in_flight.discard(task_id)
        return 200, {"task_id": task_id, **answer}

    def _cancel(self, request):
        self.cancelled.append(int(request.url.rpartition("/")[2].partition("?")[0]))
        return 200, {"task_id": self.cancelled[-1], "status": "Cancelled."}


class RecordingTerminal(Terminal):
    """Records messages and status lines, and calls `on_status` after each of the latter."""

    def __init__(self):
        super().__init__(io.StringIO(), io.StringIO())
        self.messages = []
        self.statuses = []
        self.waits = []
        self.on_status = lambda: None

    def say(self, text):
        self.messages.append(text)

    def say_waiting_once(self, body):
        self.waits.append(body)

    def show_status(self, text=""):
        self.statuses.append(text)
        self.on_status()
