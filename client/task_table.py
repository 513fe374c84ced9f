"""Tasks as a table that fits a number of columns. It knows no HTTP and writes nothing."""
from __future__ import annotations

import calendar
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from client.columns import count_columns, fit
from client.waiting import format_duration
from console.printable import make_printable
from transport.answers import read_text

Json = Dict[str, Any]

ID, STATE, AGE, MODEL, PROMPT, ANSWER = range(6)
HEADINGS = ("ID", "STATE", "AGE", "MODEL", "PROMPT", "ANSWER")
# What is left out first where there is no room for all.
LEFT_OUT = (AGE, MODEL, ANSWER, STATE)
MAX_MODEL_COLUMNS = 24
MIN_TEXT_COLUMNS = 10
GAP = "  "


def format_tasks(tasks: List[Json], columns: int, now: Callable[[], float] = time.time,
                 encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a table of tasks, given as GET /tasks has them.

    Characters that `encoding` does not have are written out.
    """
    def encodable(text: str) -> str:
        return text.encode(encoding, "backslashreplace").decode(encoding)

    rows = [tuple(map(encodable, row)) for row in (HEADINGS, *(_cells(task, now())
                                                               for task in tasks))]
    widths = _share(columns, [max(map(count_columns, column)) for column in zip(*rows)])
    more = "…" if encodable("…") == "…" else "..."
    for row in rows:
        line = GAP.join(_pad(row[column], width, more) for column, width in widths.items())
        yield _pad(line.rstrip(), columns, more).rstrip()


def _share(columns: int, natural: List[int]) -> Dict[int, int]:
    """Return the widths of the columns of the table that there is room for, in their order."""
    widths = dict(enumerate(natural))
    widths[MODEL] = min(widths[MODEL], MAX_MODEL_COLUMNS)
    for column in (PROMPT, ANSWER):
        widths[column] = MIN_TEXT_COLUMNS
    for column in LEFT_OUT:
        if _count_left(columns, widths) >= 0:
            break
        del widths[column]
    left = _count_left(columns, widths) + MIN_TEXT_COLUMNS * (2 if ANSWER in widths else 1)
    # The prompt gets more: the answer can be printed, too.
    widths[PROMPT] = min(natural[PROMPT], max(MIN_TEXT_COLUMNS, left * 3 // 5))
    if ANSWER in widths:
        widths[ANSWER] = left - widths[PROMPT]
    else:
        widths[PROMPT] = max(1, left)
    return widths


def _count_left(columns: int, widths: Dict[int, int]) -> int:
    return columns - sum(widths.values()) - len(GAP) * (len(widths) - 1)


def _cells(task: Json, now: float) -> Tuple[str, ...]:
    """The texts of a row, each on one line and safe for a terminal."""
    state = read_text(task, "state")
    position = task.get("queue_position")
    if state == "queued" and isinstance(position, int):
        state = f"queued #{position}"
    # There may be no text in what was submitted, such as an image.
    prompt = read_text(task, "summary") or read_text(task, "path") or "(no text)"
    answer, error = read_text(task, "result_start"), read_text(task, "error")
    if state == "failed" or not answer:
        answer = error or answer
    if state.startswith("queued") and not answer:
        answer = "waiting for " + (read_text(task, "waiting_for") or "its turn")
    cells = (str(task.get("task_id", "")), state, _age(task.get("submitted_at"), now),
             read_text(task, "model"), prompt, answer)
    return tuple(make_printable(" ".join(cell.split())) for cell in cells)


def _age(submitted_at: Any, now: float) -> str:
    at = _parse_time(submitted_at)
    return "" if at is None else format_duration(max(0.0, now - at))


def _parse_time(text: Any) -> Optional[float]:
    """Return the Unix time of a time in UTC as RFC 3339 has it."""
    try:
        parsed = time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError):
        return None
    return float(calendar.timegm(parsed))


def _pad(text: str, width: int, more: str) -> str:
    """Return a text in so many columns; if it is cut, it ends in `more`."""
    shown, columns = fit(text, width)
    if shown != text and width > len(more):
        shown, columns = fit(text, width - len(more))
        shown, columns = shown + more, columns + len(more)
    return shown + " " * (width - columns)
