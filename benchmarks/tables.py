"""Prints figures as tables; it does not know what they mean."""
from __future__ import annotations

from typing import List, Optional

from over_http import Spread


def table(title: str, head: List[str], rows: List[List[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}\n")
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def ms(milliseconds: Optional[float]) -> str:
    """None is what this machine does not tell."""
    return "unknown" if milliseconds is None else f"{milliseconds:.2f} ms"


def ratio(one: Optional[float], other: Optional[float]) -> str:
    return f"{one / other:.2f} x" if one and other else "unknown"


def both(spread: Spread) -> List[str]:
    return [ms(spread.p50), ms(spread.p99)]
