"""What requests may say, and what is said of those that may not; it knows no Flask and no store."""
from __future__ import annotations

import json
import math
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, NoReturn, Optional

from taskstore import Piece
from taskstore.tasks import model_key

MAX_NAME_LENGTH = 200
MAX_MODELS = 1000
MAX_LEASE_ID_LENGTH = 100
# No id ever gets so long, and every store can hold it.
MAX_TASK_ID = 2**63 - 1
MAX_NUMBER_DIGITS = 40
MAX_DEPTH = 100
MAX_KEY_LENGTH = 255
MAX_DEADLINE_SECONDS = 366 * 24 * 60 * 60
MAX_METRICS_BYTES = 4096

# The fields of Ollama's POST /api/generate besides prompt and model, and their types.
# Source: api/types.go, GenerateRequest, in ollama/ollama.
GENERATE_FIELDS = {
    "suffix": (str,),
    "system": (str,),
    "template": (str,),
    "context": (list,),
    "stream": (bool,),
    "raw": (bool,),
    "format": (str, dict),
    "keep_alive": (str, int, float),
    "images": (list,),
    "options": (dict,),
    "think": (bool, str),
    "truncate": (bool,),
    "shift": (bool,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
}

_JSON_NAMES = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number",
    list: "a list", dict: "an object", type(None): "null",
}


class BadInput(ValueError):
    """A request that cannot be right; the message is one sentence for who sent it."""


class Submission(NamedTuple):
    """A task to be: `request` is all that is for Ollama, as JSON; a deadline of 0 is none."""

    model: str
    request: bytes
    ttl_seconds: float
    timeout_seconds: float


class Claim(NamedTuple):
    """What a worker asks for; times in seconds."""

    worker: str
    models: Optional[FrozenSet[str]]
    lease_seconds: float
    wait_seconds: float


class Outcome(NamedTuple):
    """What became of a task: just one of result, error and release."""

    task_id: int
    lease_id: str
    result: Optional[str]
    error: Optional[str]
    retry: bool
    release: bool
    thinking: str
    metrics: str


class Progress(NamedTuple):
    """What a worker has since the last time; `offset` is where the pieces begin."""

    lease_id: str
    offset: int
    pieces: List[Piece]


def parse_object(body: bytes) -> Dict[str, Any]:
    """The JSON object in a body, whatever its Content-Type was."""
    try:
        value = json.loads(
            body.decode("utf-8-sig"), parse_int=_parse_int, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise BadInput("The body must be JSON in UTF-8.") from None
    except RecursionError:
        raise BadInput("The body is nested too deeply.") from None
    except ValueError as error:
        raise BadInput(f"The body must be a JSON object, and is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadInput(f"The body must be a JSON object, not {_JSON_NAMES[type(value)]}.")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def submission(
    fields: Dict[str, Any], default_model: str, ttl_seconds: float, timeout_seconds: float
) -> Submission:
    """What is given serves where nothing is said. Raises BadInput for a field that Ollama's
    /api/generate does not have, or not so."""
    ttl_seconds = _deadline(fields, "ttl_seconds", ttl_seconds)
    timeout_seconds = _deadline(fields, "timeout_seconds", timeout_seconds)
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        raise BadInput("No prompt provided.")
    _check_type("prompt", prompt, (str,))
    model = fields.get("model")
    if model is None or model == "":
        model = default_model
    model = _name("model", model)
    for key, value in fields.items():
        if key not in ("prompt", "model"):
            if key not in GENERATE_FIELDS:
                raise BadInput(f"Unknown field {key!r}: Ollama's /api/generate has none such.")
            if value is not None:
                _check_type(key, value, GENERATE_FIELDS[key])
    request = _dump({**fields, "prompt": prompt, "model": model})
    return Submission(model, request, ttl_seconds, timeout_seconds)


def idempotency_key(value: str) -> str:
    """Empty when there is none."""
    if len(value) > MAX_KEY_LENGTH or not (value.isascii() and value.isprintable()):
        raise BadInput(f"Idempotency-Key must be at most {MAX_KEY_LENGTH} printable characters.")
    return value


def claim(args: Mapping[str, str], lease_seconds: float, max_wait_seconds: float) -> Claim:
    """`lease_seconds` is what is given unasked, and at most."""
    models = args.get("models")
    lease = _seconds(args, "lease", lease_seconds)
    if lease < 1:
        raise BadInput("lease must be at least 1 second.")
    return Claim(
        worker=_name("worker", args.get("worker") or "unnamed"),
        models=None if models is None else _models(models),
        lease_seconds=min(lease, lease_seconds),
        wait_seconds=wait_seconds(args, max_wait_seconds),
    )


def wait_seconds(args: Mapping[str, str], max_wait_seconds: float) -> float:
    """`wait`, cut to what is allowed."""
    return min(_seconds(args, "wait", 0.0), max_wait_seconds)


def outcome(fields: Dict[str, Any]) -> Outcome:
    """The body of POST /task."""
    result, error, release = (fields.get(key) for key in ("result", "error", "release"))
    if release is False:
        release = None
    if [result, error, release].count(None) != 2:
        raise BadInput("Give just one of result (text), error (text) and release (true).")
    for key, value, kind in (("result", result, str), ("error", error, str),
                             ("release", release, bool)):
        if value is not None:
            _check_type(key, value, (kind,))
    for text in (result, error):
        _check_text(text or "")
    retry = fields.get("retry", False)
    _check_type("retry", retry, (bool,))
    return Outcome(
        _task_id(fields), lease_id(fields), result, error, retry, release is True,
        _text(fields, "thinking"), _metrics(fields.get("metrics")),
    )


def progress(fields: Dict[str, Any]) -> Progress:
    """The body of POST /task/<id>/progress."""
    given = lease_id(fields)
    if not given:
        raise BadInput("No lease_id provided.")
    pieces = [Piece(_text(fields, "thinking"), True), Piece(_text(fields, "text"))]
    pieces = [piece for piece in pieces if piece.text]
    offset = fields.get("offset", None if pieces else 0)
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise BadInput("offset must be the number of characters that were sent before.")
    return Progress(given, offset, pieces)


def lease_id(fields: Dict[str, Any]) -> str:
    """Empty when there is none."""
    value = fields.get("lease_id")
    if value is None:
        return ""
    _check_type("lease_id", value, (str,))
    if not 0 < len(value) <= MAX_LEASE_ID_LENGTH:
        raise BadInput("lease_id must be the one that the claim was answered with.")
    return str(value)


def task_id_in_path(text: str) -> Optional[int]:
    """None for what is no id that could ever be."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return min(int(text), MAX_TASK_ID)


def _task_id(fields: Dict[str, Any]) -> int:
    if "task_id" not in fields:
        raise BadInput("No task_id provided.")
    task_id = fields["task_id"]
    _check_type("task_id", task_id, (int,))
    return int(max(-1, min(task_id, MAX_TASK_ID)))


def _deadline(fields: Dict[str, Any], key: str, default: float) -> float:
    value = fields.pop(key, None)
    if value is None:
        return default
    _check_type(key, value, (int, float))
    if not 0 < value <= MAX_DEADLINE_SECONDS:
        raise BadInput(f"{key} must be more than 0, and at most a year.")
    return float(value)


def _text(fields: Dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    _check_type(key, value, (str,))
    _check_text(value)
    return str(value)


def _metrics(value: Any) -> str:
    if value is None:
        return ""
    _check_type("metrics", value, (dict,))
    text = _dump(value).decode()
    if len(text) > MAX_METRICS_BYTES:
        raise BadInput(f"metrics must be at most {MAX_METRICS_BYTES} bytes of JSON.")
    return text


def _models(text: str) -> FrozenSet[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > MAX_MODELS:
        raise BadInput(f"models may list at most {MAX_MODELS} names.")
    return frozenset(model_key(_name("models", name)) for name in names)


def _name(key: str, value: Any) -> str:
    _check_type(key, value, (str,))
    if not value or len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise BadInput(f"{key} must be a name of 1 to {MAX_NAME_LENGTH} printable characters.")
    return str(value)


def _seconds(args: Mapping[str, str], key: str, default: float) -> float:
    text = args.get(key)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BadInput(f"{key} must be a number of seconds, such as {key}=25.")
    return value


def _check_type(key: str, value: Any, kinds: Any) -> None:
    # To Python true is a number; to JSON it is not.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(_JSON_NAMES[kind] for kind in kinds)
        raise BadInput(f"{key} must be {wanted}, not {_JSON_NAMES[type(value)]}.")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise BadInput(f"The body is nested more than {MAX_DEPTH} deep.")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("The text has half a surrogate pair, which is no character.") from None


def _dump(fields: Dict[str, Any]) -> bytes:
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise BadInput("The body is nested too deeply.") from None
    except ValueError:
        raise BadInput("There is a number in the body that is too large.") from None
    _check_text(text)
    return text.encode()


def _parse_int(digits: str) -> int:
    # Python before 3.11 takes minutes for a million digits.
    if len(digits) > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number has more than {MAX_NUMBER_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
