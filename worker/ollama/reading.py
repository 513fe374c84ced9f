"""An answer of Ollama while it is read. It knows nothing of the Manage Server."""
from __future__ import annotations

import math
import threading
from typing import Any, Callable, Dict, Optional

from transport.sessions import Session
from worker.ollama.answers import OllamaError

Json = Dict[str, Any]


class AnswerTooLong(OllamaError):
    """The answer has grown beyond the limit, and was stopped there."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The answer was stopped because it became longer than {max_bytes} bytes, "
                         "the limit (MAX_RESULT_BYTES).", retry=False)


class Answer:
    """Reads an answer with `session`; other threads can wait for it, or stop it.

    A subclass reads it in `_read`, and notifies `_changed` when `_length` has grown.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._changed = threading.Condition()
        self._error: Optional[BaseException] = None
        # Apart, so that nobody who waits for this wakes up for each piece.
        self._done = threading.Event()

    def when_sent(self, function: Callable[[], None]) -> None:
        """Call a function once `run` has sent the request to Ollama, or before that, as here."""
        function()

    def start(self) -> None:
        """Read it in a thread of its own."""
        threading.Thread(target=self.run, name="answer", daemon=True).start()

    def run(self) -> None:
        """Read it in this thread."""
        try:
            self._read()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._done.set()
                self._changed.notify_all()

    def wait(self, seconds: float, offset: float = math.inf) -> bool:
        """Wait until the answer is done, or longer than `offset`, or `seconds` have passed.

        Returns whether the answer is done.
        """
        if offset == math.inf:
            return self._done.wait(seconds)
        with self._changed:
            self._changed.wait_for(
                lambda: self._done.is_set() or self._length() > offset, seconds)
            return self._done.is_set()

    @property
    def length(self) -> int:
        """The length so far, in the units of the offsets that the Manage Server counts."""
        with self._changed:
            return self._length()

    @property
    def error(self) -> Optional[BaseException]:
        """Why the answer was not read to its end, once it is done."""
        return self._error

    def outcome(self) -> Json:
        """Return what to deliver for a completed task. Raises OllamaError."""
        raise NotImplementedError

    def stop(self) -> None:
        """Close the connection, which makes Ollama stop, unless the answer is done."""
        with self._changed:
            if not self._done.is_set():
                self._session.abort()

    def _read(self) -> None:
        raise NotImplementedError

    def _length(self) -> int:
        raise NotImplementedError
