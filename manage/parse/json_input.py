"""Checks of single values in a request; it knows no request and no field by name."""
from __future__ import annotations

import itertools
import json
import math
import re
from codecs import BOM_UTF8
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple, Union

MAX_NAME_LENGTH = 200
MAX_NUMBER_DIGITS = 40
MAX_DEPTH = 100
# A body of 1 MiB that is all `[]` takes 24 MiB when parsed. So the pieces that values are made of
# are counted first: this many take at most 17 MiB (34 MiB in Python 3.7), however large the body.
MAX_JSON_TOKENS = 250_000
_JSON_TOKEN = re.compile(rb'"[^"]*"|[\[{,]')

_JSON_NAMES = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number",
    list: "a list", dict: "an object", type(None): "null",
}

MakeObject = Callable[[List[Tuple[str, Any]]], Dict[str, Any]]


class BadInput(ValueError):
    """A malformed request; the message is one sentence for its sender."""


def parse_pairs(body: bytes) -> List[Tuple[str, Any]]:
    """The keys and values of the JSON object in a body, where a key may come more than once.

    Raises BadInput.
    """
    outermost: List[Tuple[str, Any]] = []

    def make_object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        # The outermost object ends last.
        outermost[:] = pairs
        return dict(pairs)

    parse_object(body, make_object)
    return outermost


def parse_object(
    body: bytes, make_object: Optional[MakeObject] = None
) -> Dict[str, Any]:
    """The JSON object in a body, whatever its Content-Type. Raises BadInput."""
    _check_token_count(body)
    decoder = _DECODER if make_object is None else _decoder(make_object)
    try:
        # Decoding as utf-8-sig takes longer.
        plain = body[len(BOM_UTF8):] if body.startswith(BOM_UTF8) else body
        value = decoder.decode(plain.decode())
    except UnicodeDecodeError:
        raise BadInput("The body must be JSON in UTF-8.") from None
    except RecursionError:
        raise BadInput(f"The body is nested more than {MAX_DEPTH} levels deep.") from None
    except ValueError as error:
        raise BadInput(f"The body must be a JSON object, but is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadInput(f"The body must be a JSON object, not {_JSON_NAMES[type(value)]}.")
    # Few bodies have so many brackets.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    return value


def text(fields: Dict[str, Any], key: str) -> str:
    """The text of a field; empty if the field is missing or null."""
    value = fields.get(key)
    if value is None:
        return ""
    check_type(key, value, (str,))
    check_text(value)
    return str(value)


def is_name(value: str) -> bool:
    return 0 < len(value) <= MAX_NAME_LENGTH and value.isprintable()


def name(key: str, value: Any) -> str:
    check_type(key, value, (str,))
    if not is_name(value):
        raise BadInput(f"{key} must be 1 to {MAX_NAME_LENGTH} printable characters.")
    return str(value)


def whole_number(key: str, value: Any) -> int:
    check_type(key, value, (int,))
    return int(value)


def check_parameters(args: Any, known: Sequence[str]) -> None:
    """Refuse a query string, as a MultiDict of werkzeug, with other parameters, such as a misspelt
    one, or with one of them twice. Raises BadInput."""
    for key, given in args.lists():
        if key not in known:
            raise BadInput(
                f"Unknown parameter: {key[:50]!r}. Known here: {', '.join(known)}.")
        if len(given) > 1:
            raise BadInput(f"The parameter {key} must not come more than once.")


def seconds(args: Mapping[str, str], key: str, default: float) -> float:
    """A number of seconds from a query string."""
    given = args.get(key)
    if not given:
        return default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BadInput(f"{key} must be a number of seconds, such as {key}=25.")
    return value


def seconds_field(fields: Dict[str, Any], key: str, default: float) -> float:
    """A number of seconds in a body."""
    value = fields.get(key)
    if value is None:
        return default
    check_type(key, value, (int, float))
    if not 0 <= value < math.inf:
        raise BadInput(f"{key} must be a number of seconds, such as 25, and not negative.")
    return float(value)


def flag(fields: Dict[str, Any], key: str) -> bool:
    """True or false; false if the field is missing or null."""
    value = fields.get(key)
    if value is None:
        return False
    check_type(key, value, (bool,))
    return bool(value)


def check_type(key: str, value: Any, kinds: Any) -> None:
    if int in kinds and isinstance(value, float) and value.is_integer():
        return  # In JSON, 1.0 is a whole number.
    # In Python, true is a number; in JSON it is not.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = [_JSON_NAMES[kind] for kind in kinds if not (kind is int and float in kinds)]
        raise BadInput(f"{key} must be {' or '.join(names)}, not {_JSON_NAMES[type(value)]}.")


def check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput("The text contains an unpaired UTF-16 surrogate.") from None


def dump(fields: Union[Dict[str, Any], List[Any]]) -> bytes:
    try:
        dumped = _encode(fields)
    except ValueError:
        raise BadInput("A number in the body is too large.") from None
    check_text(dumped)
    return dumped.encode()


def _check_token_count(body: bytes) -> None:
    if len(body) <= MAX_JSON_TOKENS:
        return
    # Without its escapes, a string ends at the next quote.
    tokens = _JSON_TOKEN.finditer(body.replace(b"\\\\", b"").replace(b'\\"', b""))
    if any(True for _ in itertools.islice(tokens, MAX_JSON_TOKENS, None)):
        raise BadInput(f"The body has too many values: it may have at most {MAX_JSON_TOKENS} "
                       "strings, lists, objects and commas.")


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
    raise BadInput(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _parse_int(digits: str) -> int:
    # Python before 3.11 takes minutes for a million digits.
    if len(digits) > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number has more than {MAX_NUMBER_DIGITS} digits")
    return int(digits)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _decoder(make_object: Optional[MakeObject]) -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_int=_parse_int, parse_constant=_refuse_constant, object_pairs_hook=make_object)


# json.loads() and json.dumps() would make new ones for each body.
_DECODER = _decoder(None)
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
