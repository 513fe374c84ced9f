"""What a message says of a task that has begun, or has more text. It knows no readers."""
from __future__ import annotations

from typing import Optional

from .codec import decode_pieces, decode_task, encoding_of
from .looks import SharedLook, look_after
from .topics import Topic

MAX_NEWS_BYTES = 8192


def read_news(news: bytes, topic: Topic) -> Optional[SharedLook]:
    """Return the look that readers of a topic share, from what follows the id in the message.

    clients.lua writes it, and keys.md describes it.
    """
    numbers, _, content = news.partition(b"\n")
    now, turn, offset, fields_bytes, *runs = numbers.split()
    fields, text = content[:int(fields_bytes)], content[int(fields_bytes):]
    task = decode_task(fields, b"")
    pieces = decode_pieces(encoding_of(task), int(offset), text, runs)
    return look_after(task, float(now), int(offset), pieces, int(turn))(topic)
