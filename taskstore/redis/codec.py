"""Tasks and texts as they are stored in Redis, and the answers of the scripts with names for
their parts. It knows no connection.

keys.md describes the keys and fields, and the Lua files the order of arguments and answers.
"""
from __future__ import annotations

import json
import math
from typing import Any, Dict, List, NamedTuple, Tuple, Union

from .. import tasks
from ..names import model_key
from ..snapshots import brief, figures
from ..task import COMPLETED, FINAL, Task, task_bytes
from ..texts import ANSWER, HEAD, THINKING, Piece, Text
from ..wall_times import WallTimes, read_wall_times

_KIND_LETTERS = {HEAD: "h", THINKING: "t", ANSWER: "a"}
_KINDS = {letter: kind for kind, letter in _KIND_LETTERS.items()}
_DEFAULTS = Task._field_defaults
# json.dumps makes a new encoder each time when it is given options.
to_json = json.JSONEncoder(ensure_ascii=False).encode


class Encoding(NamedTuple):
    """How texts are stored: with a fixed width, so that Redis can cut them at any character."""

    name: str
    width: int
    """Bytes for each character."""
    errors: str


_UTF_32 = Encoding("utf-32-le", 4, "surrogatepass")
# Its characters are bytes: see texts.Piece.
_LATIN_1 = Encoding("latin-1", 1, "replace")
DEFAULT_WIDTH = _UTF_32.width


def encoding_of(task: Task) -> Encoding:
    return _LATIN_1 if task.relay else _UTF_32


class Stored(NamedTuple):
    """A task as it was read at a moment."""

    now: float
    version: bytes
    task: Task
    """Its request is empty unless the script was told to read it."""
    request_bytes: int
    text_length: int
    """Characters of the current attempt."""
    last_run: str
    """The last member of `runs:<id>`; empty without text."""

    @classmethod
    def decode(cls, answer: List[Any]) -> Stored:
        """From what `stored_task` in common.lua returns."""
        now, version, fields, request, request_bytes, text_bytes, last_run = answer
        task = decode_task(fields, request)
        return cls(float(now), version, task, request_bytes,
                   text_bytes // encoding_of(task).width, decode_str(last_run))

    def at_epoch(self, text_epoch: int) -> Stored:
        """The same, without the text if that is of another epoch."""
        is_same = text_epoch == self.task.text_epoch
        return self if is_same else self._replace(text_length=0, last_run="")

    def followed_by(self, text: NewText) -> Stored:
        """The same with more text."""
        return self._replace(text_length=self.text_length + len(text.characters),
                             last_run=text.runs[-1] if text.runs else self.last_run)


class Indexed(NamedTuple):
    """What the indexes in Redis contain about a task, in the order that commit.lua takes it."""

    state: str
    text_epoch: int
    size_bytes: int
    due_at: Union[float, str]
    """Empty for never."""
    place: str
    """Whether it is ready, or reserved for a worker that has prefetched it; else empty."""
    finished_at: float
    server: str

    @classmethod
    def of(cls, task: Task, now: float, request_bytes: int) -> Indexed:
        """`request_bytes` is the size of the stored request, which `task` may lack."""
        due_at = tasks.due_at(task, now)
        size_bytes = task_bytes(task._replace(request=b""))
        return cls(
            task.state,
            task.text_epoch,
            size_bytes + (0 if task.state in FINAL else request_bytes),
            "" if due_at == math.inf else due_at,
            _place(task, now),
            task.finished_at,
            task.server,
        )


class Completion(NamedTuple):
    """What a task has used that has just completed, in the order that commit.lua takes it."""

    day: str = ""
    """Empty for a task that has not."""
    model: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    gpu_seconds: float = 0.0
    kept_seconds: int = 0

    @classmethod
    def of(cls, old: Task, new: Task, day: str, kept_seconds: int) -> Completion:
        if old.state == COMPLETED or new.state != COMPLETED:
            return cls()
        return cls(day, model_key(new.model), *figures(new), kept_seconds)

    def encode(self) -> Tuple[Any, ...]:
        # Redis does not take every form of a number.
        return (*self[:4], f"{self.gpu_seconds:.6f}", self.kept_seconds)


class NewText(NamedTuple):
    """Text to append, and the members that it adds to `runs:<id>`."""

    characters: str = ""
    runs: Tuple[str, ...] = ()

    def encode(self, encoding: Encoding) -> Tuple[Any, ...]:
        """As the last arguments of commit.lua."""
        return (self.characters.encode(encoding.name, encoding.errors), *self.runs)


class Look(NamedTuple):
    """What look.lua returns after `ok`."""

    now: bytes
    turn: bytes
    """The last one."""
    fields: bytes
    request: bytes
    position: int
    connected_with_model: int
    connected: int
    last_seen_at: bytes
    """Empty for never."""
    too_old: int
    durations: List[bytes]
    text_bytes: int
    """Of the whole text."""
    offset: bytes
    """Where `text` begins."""
    text: bytes
    runs: List[bytes]
    jumps: List[bytes]


class DueModel(NamedTuple):
    """A model with ready tasks that perhaps no worker has."""

    model: bytes
    oldest: List[Stored]
    """Of its ready tasks."""
    connected: int
    """The number of connected workers that can run it."""
    last_seen_at: bytes
    """The last contact with a worker that could; empty for never."""
    too_old: int
    """See `Availability`."""


class Due(NamedTuple):
    """What take_due.lua returns after `ok`."""

    now: bytes
    next_at: bytes
    """When something is due next; empty for never."""
    is_more: int
    """Whether more finished tasks are to be forgotten."""
    restarting: List[Any]
    """What `Stored.decode` reads, for each task whose lease starts anew."""
    tasks: List[Any]
    """For each task the time when it was due, and what `Stored.decode` reads."""
    models: List[Any]
    connected: int
    """The number of connected workers."""
    connected_since: bytes
    connected_models: List[bytes]

    def in_order(self) -> List[Stored]:
        """The tasks that time changes, first due first."""
        due = [(float(due_at), Stored.decode(answer)) for due_at, answer in self.tasks]
        due.sort(key=lambda one: (one[0], one[1].task.task_id))
        return [stored for _, stored in due]

    def due_models(self) -> List[DueModel]:
        return [DueModel(model, list(map(Stored.decode, oldest)), *more)
                for model, oldest, *more in self.models]

    @property
    def is_all(self) -> bool:
        """Whether nothing was due."""
        return not (self.restarting or self.tasks or self.models or self.is_more)

    def next_seconds(self) -> float:
        """In how many seconds something is due next; infinity for never."""
        return float(self.next_at) - float(self.now) if self.next_at else math.inf


def _place(task: Task, now: float) -> str:
    if tasks.is_ready(task, now):
        return "ready"
    return "reserved" if tasks.is_reserved(task, now) else ""


def decode_str(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def encode_task(task: Task) -> str:
    """All fields but the request as JSON, without those that have their default."""
    return to_json(_fields(task))


def encode_listed(task: Task) -> str:
    """The fields of a task in lists of tasks; empty if it has no long texts."""
    listed = brief(task) if task.state in FINAL else task
    return "" if listed == task else encode_task(listed)


def encode_new_task(task: Task) -> str:
    """The same, without the opening brace and the fields that submit.lua fills in."""
    fields = _fields(task)
    del fields["task_id"], fields["submitted_at"]
    return to_json(fields)[1:]


def decode_task(fields: bytes, request: bytes) -> Task:
    known = json.loads(decode_str(fields))
    known["digest"] = bytes.fromhex(known.get("digest", ""))
    if "claims" in known:  # The name of text_epoch in tasks that older versions stored.
        known.setdefault("text_epoch", known.pop("claims"))
    return Task(request=request, **known)


def _fields(task: Task) -> Dict[str, Any]:
    fields = {
        name: value for name, value in zip(task._fields, task)
        if name != "request" and (name not in _DEFAULTS or value != _DEFAULTS[name])
    }
    if task.digest:
        fields["digest"] = task.digest.hex()
    return fields


def decode_jumps(members: List[bytes]) -> WallTimes:
    """From the members of `jumps`."""
    pairs = (member.split() for member in members)
    return read_wall_times((float(at), float(ahead)) for at, ahead in pairs)


def key_field(owner: str, key: str) -> str:
    """The field of an idempotency key in `keys`; empty without a key."""
    return f"{len(owner)}:{owner}:{key}" if key else ""


def new_text(stored: Stored, offset: int, pieces: List[Piece]) -> NewText:
    """What pieces that begin at `offset` add to the stored text; nothing if they leave a gap."""
    length = stored.text_length
    if offset > length:
        return NewText()
    characters, runs = "", []
    last_letter = stored.last_run.partition(":")[2]
    for piece in pieces:
        start = length + len(characters)
        new = piece.text[max(0, start - offset):]
        offset += len(piece.text)
        letter = _KIND_LETTERS[piece.kind]
        if new and letter != last_letter:
            runs.append(f"{start}:{letter}")
            last_letter = letter
        characters += new
    return NewText(characters, tuple(runs))


def decode_pieces(
    encoding: Encoding, offset: int, text: bytes, runs: List[bytes]
) -> List[Piece]:
    """The pieces of a text that begins at `offset`."""
    characters = text.decode(encoding.name, encoding.errors)
    starts = [max(0, int(run.partition(b":")[0]) - offset) for run in runs]
    ends = [*starts[1:], len(characters)]
    return [
        Piece(_KINDS[decode_str(run).partition(":")[2]], characters[start:end])
        for run, start, end in zip(runs, starts, ends)
        if characters[start:end]
    ]


def decode_text(encoding: Encoding, text: bytes, runs: List[bytes]) -> Text:
    """A whole text."""
    found = Text()
    found.append(0, decode_pieces(encoding, 0, text, runs))
    return found
