"""Send a relayed answer to the Manage Server while Ollama writes it, and renew the lease."""
from __future__ import annotations

import time
from typing import Optional

from transport.answers import read_whole_number
from worker.ollama.relay import RelayedAnswer
from worker.protocol.answer_part import AnswerPart
from worker.protocol.client import ManageClient
from worker.protocol.errors import TooLarge
from worker.protocol.task import Lease

# In one request. Something in between may accept less, but hardly ever less than the minimum.
MAX_BYTES = 1024 * 1024
MIN_BYTES = 8 * 1024


class AnswerSender:
    """Sends the bytes of one answer in order, each byte once unless the server lost it.

    It sends one request at a time; the next one has all that has come in the meantime.
    """

    def __init__(self, client: ManageClient, answer: RelayedAnswer, lease: Lease) -> None:
        self._client = client
        self._answer = answer
        self._lease = lease
        self._max_bytes = MAX_BYTES
        # The number of bytes that the server has.
        self.offset: int = 0
        # Whether the server has all of the answer and takes the task for completed.
        self.has_completed = False
        self._has_sent_head = False
        # Whether the server may have something of it.
        self._has_begun = False

    @property
    def has_news(self) -> bool:
        """Whether there is something to send besides the renewal."""
        part = self._answer.part(self.offset, 0)
        is_head_new = part.head is not None and not self._has_sent_head
        return is_head_new or part.length > self.offset

    def whole(self, max_bytes: int) -> Optional[AnswerPart]:
        """Return all of an answer that is done, unless it is longer or has been sent in part."""
        whole = self._answer.part(0, max_bytes)
        if whole.head is None or self._has_begun or whole.length > max_bytes:
            return None
        return AnswerPart(0, whole.data, whole.head, True, self._answer.figures())

    def with_client(self, client: ManageClient) -> AnswerSender:
        """Return one that sends all of the answer with another client."""
        return AnswerSender(client, self._answer, self._lease)

    def send(self, is_ending: bool = False) -> bool:
        """Renew the lease, with the bytes after `offset`; the last ones complete an ending answer.

        Returns False if the server kept none of the bytes: pause before the next request. Raises
        ServerDown, AccessDenied, TaskLost and AnswerRefused.
        """
        head, data, length = self._answer.part(self.offset, self._max_bytes)
        if head is None:
            self._client.send_progress(self._lease, {})
            return True
        self._has_begun = True
        end = self.offset + len(data)
        is_last = is_ending and end == length
        part = AnswerPart(self.offset, data, head if self.offset == 0 else None, is_last,
                          self._answer.figures() if is_last else None)
        try:
            answer = self._client.send_answer(self._lease, part)
        except TooLarge:
            if self._max_bytes <= MIN_BYTES:
                raise
            self._max_bytes //= 2
            return True
        self._has_sent_head = True
        kept = read_whole_number(answer, "offset", length)
        self.has_completed = is_last and (kept == end or answer.get("state") == "completed")
        sent_from, self.offset = self.offset, self.offset if kept is None else kept
        return kept is not None and (kept > sent_from or not data)

    def flush(self, seconds: float) -> None:
        """Send the bytes that are left, as far as `seconds` suffice; raises as `send` does.

        If none has been sent before, none is: the client shall not see an attempt that failed.
        """
        deadline = time.monotonic() + seconds
        while (0 < self.offset < self._answer.length and self.send()
               and time.monotonic() < deadline):
            pass
