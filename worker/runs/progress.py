"""Send what Ollama writes to the Manage Server while it writes, and renew the lease."""
from __future__ import annotations

import math
import time
from typing import Any, Dict, List

from worker.ollama.generation import Generation
from worker.protocol.client import ManageClient
from worker.protocol.task import Lease, read_offset

Json = Dict[str, Any]

# In one request, which then stays below a megabyte; every server accepts that much.
MAX_CHARACTERS = 100_000


class ProgressSender:
    """Sends the text of one task in order, each character once unless the server lost it.

    It sends one request at a time; the next one has all that was written in the meantime.
    """

    def __init__(self, client: ManageClient, generation: Generation, lease: Lease) -> None:
        self._client = client
        self._generation = generation
        self._lease = lease
        # The number of characters that the server has; infinite if it keeps no text.
        self.offset: float = 0 if lease.lease_id else math.inf

    @property
    def has_news(self) -> bool:
        """Whether there is something to send besides the renewal."""
        return self._generation.length > self.offset

    def send(self) -> bool:
        """Renew the lease, with the text after `offset`.

        Returns False if the server kept none of the text: pause before the next request. Raises
        ServerDown, AccessDenied and TaskLost.
        """
        text = self._text()
        answer = self._client.send_progress(self._lease, text)
        if not text:
            return True
        sent_from = self.offset
        # A server that keeps no text, or no more of it, gets all of it with the result.
        self.offset = read_offset(answer, self._generation.length)
        return self.offset > sent_from

    def flush(self, seconds: float) -> None:
        """Send the text that is left, as far as the server keeps it and `seconds` suffice.

        Raises as `send` does.
        """
        deadline = time.monotonic() + seconds
        while (self._generation.length > self.offset and self.send()
               and time.monotonic() < deadline):
            pass

    def _text(self) -> Json:
        """Return the text after `offset` as fields of a request, or {} if there is none."""
        if self.offset == math.inf:
            return {}
        texts: Dict[str, List[str]] = {}
        for kind, text in self._generation.pieces_after(int(self.offset), MAX_CHARACTERS):
            # In a request, thinking comes before text: thinking after text has to wait.
            if kind == "thinking" and "text" in texts:
                break
            texts.setdefault(kind, []).append(text)
        fields = {kind: "".join(parts) for kind, parts in texts.items()}
        return {"offset": self.offset, **fields} if fields else {}
