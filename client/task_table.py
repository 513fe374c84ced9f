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

HEADINGS = ("ID", "STATE", "AGE", "MODEL", "PROMPT", "ANSWER")
MAX_MODEL_COLUMNS = 24
MIN_TEXT_COLUMNS = 10
GAP = "  "


def format_tasks(tasks: List[Json], columns: int, now: Callable[[], float] = time.time
                 ) -> Iterator[str]:
    """Yield the lines of a table of tasks, given as GET /tasks has them."""
    rows = [HEADINGS, *(_cells(task, now()) for task in tasks)]
    widths = [max(map(count_columns, column)) for column in zip(*rows)]
    widths[3] = min(widths[3], MAX_MODEL_COLUMNS)
    left = columns - sum(widths[:4]) - len(GAP) * 5
    # The prompt gets more: the answer can be printed, too.
    widths[4] = min(widths[4], max(MIN_TEXT_COLUMNS, left * 3 // 5))
    widths[5] = max(MIN_TEXT_COLUMNS, left - widths[4])
    for row in rows:
        cells = [_pad(cell, width) for cell, width in zip(row, widths)]
        yield fit(GAP.join(cells).rstrip(), columns)[0]


def _cells(task: Json, now: float) -> Tuple[str, ...]:
    """The texts of a row, each on one line and safe for a terminal."""
    state = read_text(task, "state")
    position = task.get("queue_position")
    if state == "queued" and isinstance(position, int):
        state = f"queued, {position}."
    answer = read_text(task, "result_start") or read_text(task, "error") or (
        read_text(task, "waiting_for") if state.startswith("queued") else "")
    cells = (str(task.get("task_id", "")), state, _age(task.get("submitted_at"), now),
             read_text(task, "model"), read_text(task, "summary"), answer)
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


def _pad(text: str, width: int) -> str:
    shown, columns = fit(text, width)
    if shown != text and width > 1:
        shown, columns = fit(text, width - 1)
        shown, columns = shown + "…", columns + 1
    return shown + " " * (width - columns)
