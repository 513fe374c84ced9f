"""Answering a request, as waitress does it; it knows no routes."""
from __future__ import annotations

from typing import Any, Iterable, List, Tuple

import waitress.task

from manage.auth.guard import IS_KNOWN
from manage.auth.origins import ADDED_BY_SERVER, ANSWER_HEADERS
from manage.auth.path_tokens import without_token

from .connections import IN_MAIN_LOOP, PAUSES, RETRY_AFTER_SECONDS, error_body
from .waitress_pauses import Paused

# A longer beginning of an answer is not sent together with its head.
MAX_JOINED_BYTES = 16 * 1024

# A longer part is not sent in the main loop: it may have to be written to a temporary file.
MAX_LOOP_PART_BYTES = 1024 * 1024

_ANSWER_LINES = [(name, f"{name}: {value}\r\n".encode()) for name, value in ANSWER_HEADERS.items()]


class _WithAnswerHeaders:
    """A task of waitress that gives its answer the ANSWER_HEADERS, except those it has already."""

    response_headers: List[Tuple[str, str]]

    def build_response_header(self) -> bytes:
        head: bytes = super().build_response_header()  # type: ignore[misc]
        present = {name for name, _ in self.response_headers}
        lines = [line for name, line in _ANSWER_LINES if name not in present]
        # Before the empty line.
        return head[:-2] + b"".join(lines) + b"\r\n"


class Task(_WithAnswerHeaders, waitress.task.WSGITask):  # type: ignore[misc]
    def execute(self) -> None:
        channel = self.channel
        try:
            if channel.answer is None:
                super().execute()
            else:
                self._go_on(channel.answer)
        except Paused:
            channel.paused_task = self
            raise
        finally:
            if channel.paused_task is None:
                channel.end_answer()
        channel.is_known = channel.is_known or self.environ.get(IS_KNOWN, False)

    def _go_on(self, answer: Iterable[bytes]) -> None:
        """Send more of an answer that has paused."""
        for part in answer:
            self.write(part)

    def write(self, data: bytes) -> None:
        channel = self.channel
        if len(data) > MAX_LOOP_PART_BYTES and channel.answer and channel.server.loop.is_here():
            channel.answer.leave_to_thread(data)
            raise Paused()
        if self.wrote_header or len(data) > MAX_JOINED_BYTES:
            super().write(data)
            return
        # The client would wake for the head, and once more for what follows.
        channel.collect()
        try:
            super().write(data)
        finally:
            channel.send_collected()

    def get_environment(self) -> Any:
        environ = super().get_environment()
        environ[ADDED_BY_SERVER] = True
        environ[PAUSES] = self.channel
        environ[IN_MAIN_LOOP] = self.channel.server.loop.is_here()
        # From here on the path is only logged.
        self.request.path = without_token(self.request.path)
        return environ


class ErrorTask(_WithAnswerHeaders, waitress.task.ErrorTask):  # type: ignore[misc]
    def execute(self) -> None:
        error, path = self.request.error, self.request.path
        # From here on the path is only logged.
        self.request.path = without_token(path)
        sentence = error.body if error.body.endswith(".") else f"{error.reason}: {error.body}."
        body = error_body(sentence, error.code, path)
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), ("Connection", "close")]
        if error.code == 503:
            self.response_headers.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
        self.close_on_finish = True
        self.content_length = len(body)
        self.write(body)
