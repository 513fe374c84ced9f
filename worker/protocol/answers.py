"""Whether an answer is the Manage Server's own. It sends nothing.

It is if it has the server's header, or if it is what exactly that request gets from a server of the
four endpoints. Everything else comes from something in between.
"""
from __future__ import annotations

from console.printable import end_sentence
from transport.answers import Answer, read_text

TASK_KEYS = {"task_id", "prompt", "model"}
# Of tasks that only a server with the marker gives.
MORE_TASK_KEYS = ({"task_id", "messages", "model"}, {"task_id", "relay", "model"})
RECEIVED = (200, {"message": "Result received."})
NOT_FOUND = (404, {"error": "Task not found."})
# What a server that knows only the four endpoints may answer to any other.
UNKNOWN_PATH = (400, 404, 405, 501)


def is_marked(answer: Answer) -> bool:
    """Whether a Manage Server wrote it that has more than the four endpoints."""
    return answer.is_marked


def is_task_or_none(answer: Answer) -> bool:
    """Whether it can be the answer to a claim."""
    return answer.status == 200 and answer.is_json_object and (
        not answer.body or TASK_KEYS.issubset(answer.body)
        or (is_marked(answer) and any(keys.issubset(answer.body) for keys in MORE_TASK_KEYS)))


def may_not_know_the_path(answer: Answer) -> bool:
    """Whether a server of the four endpoints may have answered a request beyond them."""
    if is_marked(answer):
        return False  # A Manage Server that sends the marker knows every path.
    if answer.status == 200:
        return answer.is_json_object and not TASK_KEYS.issubset(answer.body)
    return answer.status in UNKNOWN_PATH


def reason_of(answer: Answer) -> str:
    """Return why the Manage Server refused a request, as one line."""
    return end_sentence(read_text(answer.body, "error") or "It gave no reason.")
