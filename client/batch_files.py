"""The files of a batch: the prompts, and their answers so far. It knows no server."""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

from client.fields import parse_fields
from client.terminal import describe_error

Json = Dict[str, Any]

RECORD_START = b'{"line": '
RESERVED_FIELDS = {"line", "task_id", "result", "error"}


class FileError(Exception):
    """One sentence that says why the prompts or the file of answers can't be used."""


@dataclasses.dataclass
class Prompt:
    """One prompt of the input and its outcome: a `result`, an `error`, or nothing yet."""

    line: int
    fields: Json
    task_id: Optional[int] = None
    outcome: Json = dataclasses.field(default_factory=dict)
    is_refused: bool = False  # the server will refuse it whenever it is submitted

    def to_record(self) -> Json:
        record = {"line": self.line, "task_id": self.task_id, **self.fields, **self.outcome}
        record.pop("images", None)  # They would make the output huge.
        return record


def read_files(path: str, output: str, defaults: Json) -> Tuple[List[Prompt], List[int]]:
    """Return all prompts, with earlier outcomes, and the lines that `output` has answers for."""
    try:
        prompts = _read_prompts(path, defaults)
        written = _read_answers(output, prompts) if os.path.isfile(output) else []
        write_answers(output, "a", [])  # It is better to learn now that it can't be written.
    except UnicodeDecodeError:
        raise FileError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise FileError(describe_error(error)) from None
    return prompts, written


def _read_prompts(path: str, defaults: Json) -> List[Prompt]:
    prompts = []
    with open(path, encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            fields = ((parse_fields(text) or {}) if path.endswith(".jsonl")
                      else {"prompt": text.strip()})
            prompt = fields.get("prompt")
            if (not isinstance(prompt, str) or not prompt.strip()
                    or RESERVED_FIELDS & {*defaults, *fields}):
                raise FileError(
                    f'{path}, line {number}: must be a JSON object with a "prompt" and optional '
                    f"fields of POST /submit, not {text.strip()[:60]!r}."
                )
            model = fields.get("model") or defaults.get("model")
            fields = {"prompt": prompt, "model": None, **defaults, **fields}
            prompts.append(Prompt(number, {**fields, "model": model, "prompt": prompt}))
    return prompts


def _read_answers(path: str, prompts: Sequence[Prompt]) -> List[int]:
    """Give the prompts their earlier outcomes; return their lines in the order of the file.

    Cuts off a last record that is incomplete because a run was killed.
    """
    lines: List[int] = []
    by_line = {prompt.line: prompt for prompt in prompts}
    with open(path, "rb+") as file:
        for raw in file:
            if not raw.endswith(b"\n") and raw.startswith(RECORD_START[:len(raw)]):
                file.truncate(os.path.getsize(path) - len(raw))
                break
            record = parse_fields(raw) or {}
            prompt = by_line.get(record["line"]) if type(record.get("line")) is int else None
            if prompt:
                prompt.task_id = record.get("task_id")
                prompt.outcome = {key: record[key] for key in ("result", "error") if key in record}
            if not prompt or not prompt.outcome or prompt.to_record() != record:
                raise FileError(
                    f"{path}, line {len(lines) + 1}: does not answer this input (the prompt, the "
                    "model or the options differ). Choose another --output, or delete the file."
                )
            lines.append(prompt.line)
    return lines


def write_answers(path: str, mode: str, prompts: Sequence[Prompt]) -> None:
    # UTF-8 can't hold a lone surrogate; its backslash escape is also JSON's.
    with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(prompt.to_record(), ensure_ascii=False) + "\n"
                        for prompt in prompts)


def rewrite(path: str, prompts: List[Prompt], written: List[int]) -> None:
    if not os.path.isfile(path):  # Never replace a device or a pipe by a file.
        write_answers(path, "a", [prompt for prompt in prompts if prompt.line not in written])
        return
    temporary = path + ".new"
    try:
        write_answers(temporary, "w", prompts)
        os.replace(temporary, os.path.realpath(path))
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
