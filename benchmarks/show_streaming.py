"""Has streamed text measured, and prints the tables of it."""
from __future__ import annotations

from typing import List, NamedTuple, Sequence, Tuple

import each_store
import streaming
from parts import alone
from store_servers import Place
from streaming import Cpu, Delays, Path, Whole
from tables import both, ms, ratio, table


class Streaming(NamedTuple):
    """How much is measured."""

    rounds: int
    streams: int
    pieces: int
    crowd: int
    crowd_pieces: int
    characters: Tuple[int, int]
    appends: int


def show_streaming(sizes: Streaming, places: Sequence[Place]) -> None:
    with streaming.paths(places) as (ollama, through):
        taken, used = streaming.delays(
            ollama, through, sizes.rounds, sizes.streams, sizes.pieces
        )
        _show_delays(places, taken, used)
        _show_crowd(sizes, through)
        _show_lengths(sizes, through)
    costs = alone(each_store.texts, sizes.characters, sizes.appends)
    table("One more piece in the store itself: to append four characters and read them",
          ["", *(f"after {length:,}" for length in sizes.characters), "ratio (1 is linear)"],
          [[name, *map(ms, of), ratio(of[-1], of[0])] for name, of in costs.items()])


def _show_delays(
    places: Sequence[Place], taken: Sequence[Delays], used: Sequence[Cpu]
) -> None:
    direct, *through = taken
    rows = [["Ollama, read directly", ms(direct.since_asked), ms(direct.first),
             *both(direct.later), "", "", ""]]
    for place, of, cpu in zip(places, through, used):
        rows.append([place.name, ms(of.since_asked), ms(of.first), *both(of.later),
                     ms(of.later.p50 - direct.later.p50), *map(ms, cpu)])
    milliseconds = f"{streaming.PACE_SECONDS * 1000:.0f} ms"
    table(f"Streamed text, a piece each {milliseconds}: from written by Ollama to read", [
        "", "first, from asked", "first", "later p50", "later p99",
        "added at p50 (aim: 10 ms)", "server CPU a piece", "worker CPU a piece",
    ], rows)


def _show_crowd(sizes: Streaming, through: Sequence[Path]) -> None:
    taken = [streaming.crowd(path, sizes.crowd, sizes.crowd_pieces) for path in through]
    milliseconds = f"{streaming.CROWD_PACE_SECONDS * 1000:.0f} ms"
    table(f"{sizes.crowd} readers of one stream, a piece each {milliseconds}; all got all of it",
          ["", "p50", "p99", "server CPU a piece and reader"],
          [[path.place.name, *both(waits), ms(cpu)]
           for path, (waits, cpu) in zip(through, taken)])


def _show_lengths(sizes: Streaming, through: Sequence[Path]) -> None:
    rows: List[List[str]] = []
    for path in through:
        short, long = (streaming.whole(path, length) for length in sizes.characters)
        rows.append([path.place.name, *_whole(short), *_whole(long),
                     ratio(long.took, short.took), ratio(long.cpu, short.cpu)])
    heads = [head for length in sizes.characters for head in (f"{length:,}", "CPU")]
    linear = sizes.characters[1] / sizes.characters[0]
    table("Characters of one answer, in pieces of four, as fast as they come; server and worker",
          ["", *heads, f"ratio ({linear:.0f} is linear)", "of CPU"], rows)


def _whole(one: Whole) -> List[str]:
    return [ms(one.took * 1000), ms(None if one.cpu is None else one.cpu * 1000)]
