"""The body of POST /submit: a prompt as for Ollama's /api/generate, or messages as for its
/api/chat; it knows no Flask."""
from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

import config
from taskstore import Submission

from . import json_input as values
from .json_input import BadInput
from .ollama_fields import CHAT_FIELDS, GENERATE_FIELDS, MESSAGE_FIELDS, OPTIONS
from .summaries import summarize

MAX_DEADLINE_SECONDS = 366 * 24 * 60 * 60

Types = Mapping[str, Tuple[type, ...]]


def submission(fields: Dict[str, Any], settings: config.Settings) -> Submission:
    """The body, with defaults from the settings.

    Raises BadInput for a field that Ollama does not have there, or not of that type.
    """
    ttl_seconds = _deadline(fields, "ttl_seconds", settings.task_ttl_seconds)
    timeout_seconds = _deadline(fields, "timeout_seconds", settings.task_timeout_seconds)
    is_background = values.flag(fields, "background")
    fields.pop("background", None)
    is_chat = fields.get("messages") is not None
    if is_chat:
        _check_chat(fields)
    else:
        _check_prompt(fields)
    model = fields.get("model")
    if model is None or model == "":
        model = settings.default_model
    model = values.name("model", model)
    # Sorted, so that the same fields in another order are the same submission.
    request = values.dump(dict(sorted({**fields, "model": model}.items())))
    return Submission(
        model, request, ttl_seconds=ttl_seconds, timeout_seconds=timeout_seconds,
        is_plain=not is_chat, is_background=is_background, summary=summarize(fields),
    )


def _check_prompt(fields: Dict[str, Any]) -> None:
    # It says no more than that there are none.
    fields.pop("messages", None)
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        raise BadInput("No prompt provided.")
    values.check_type("prompt", prompt, (str,))
    _check_fields(fields, GENERATE_FIELDS, "/api/generate", ("prompt", "model"))


def _check_chat(fields: Dict[str, Any]) -> None:
    if fields.get("prompt") is not None:
        raise BadInput("Send either prompt or messages, not both.")
    fields.pop("prompt", None)
    messages = fields["messages"]
    values.check_type("messages", messages, (list,))
    if not messages:
        raise BadInput("messages must have at least one message.")
    _check_fields(fields, CHAT_FIELDS, "/api/chat", ("messages", "model"))
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        values.check_type(name, message, (dict,))
        if not message.get("role"):
            raise BadInput(f"{name} has no role, such as user.")
        for key, value in message.items():
            if key not in MESSAGE_FIELDS:
                raise BadInput(f"Unknown field: {key[:50]!r} of {name} is not a field of a message "
                               "of Ollama's /api/chat.")
            if value is not None:
                values.check_type(f"{key} of {name}", value, MESSAGE_FIELDS[key])


def _check_fields(
    fields: Dict[str, Any], types: Types, endpoint: str, others: Tuple[str, ...]
) -> None:
    for key, value in fields.items():
        if key in others:
            continue
        if key in OPTIONS:
            raise BadInput(f"{key!r} is one of Ollama's options: put it into options, as in "
                           f'"options": {{"{key}": ...}}.')
        if key not in types:
            raise BadInput(f"Unknown field: {key[:50]!r} is not a field of Ollama's {endpoint}.")
        if value is not None:
            values.check_type(key, value, types[key])


def _deadline(fields: Dict[str, Any], key: str, default: float) -> float:
    value = fields.pop(key, None)
    if value is None:
        return default
    values.check_type(key, value, (int, float))
    if not 0 < value <= MAX_DEADLINE_SECONDS:
        raise BadInput(f"{key} must be more than 0 and at most a year.")
    return float(value)
