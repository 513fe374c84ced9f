"""What all real clients have in common, and what they ask; it knows none of them."""
from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER_TOOL = {"type": "function", "function": {
    "name": "weather", "description": "The weather in a city.", "parameters": WEATHER}}
# The smallest PNG: one pixel.
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg==")
IMAGE_URL = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
Calls = List[Tuple[str, Dict[str, Any]]]


class Failure(NamedTuple):
    """What a client says of an error; the status is None where it has none."""

    status: Optional[int]
    text: str


class RealClient:
    """A client of a server; `calls` are the tools that its last answer calls."""

    package = ""
    can_use_tools = True
    can_see = True
    # Starting a program costs a second, so that not everything is tried with those.
    is_program = False

    def __init__(self, url: str, token: str = "", folder: Optional[Path] = None) -> None:
        self.url = url
        self.token = token
        # Where a program may keep its files.
        self.folder = folder
        self.calls: Calls = []
        self.start()

    def start(self) -> None:
        """Make the package's own client."""

    def whole(self, model: str, **more: Any) -> str:
        """Ask for the text of an answer that is not streamed."""
        raise NotImplementedError

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        """Stream an answer. Closing the iterator hangs up."""
        raise NotImplementedError

    def failure(self, error: BaseException) -> Failure:
        raise error

    def text(self, model: str, streams: bool, **more: Any) -> str:
        self.calls = []
        return "".join(self.pieces(model, **more)) if streams else self.whole(model, **more)


def closing(stream: Any, read: Any) -> Iterator[str]:
    """Read the items of a stream, which is closed even if not all of them are asked for."""
    try:
        for item in stream:
            yield read(item)
    finally:
        stream.close()
