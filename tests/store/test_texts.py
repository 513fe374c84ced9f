"""Text, compared with a plain list of characters, and its cost."""
from __future__ import annotations

import gc
import itertools
import random
import time

import pytest

from taskstore import ANSWER, THINKING, texts
from taskstore.texts import Piece, Text

ALPHABET = ["a", "b", "\n", "é", "e\u0301", "\U0001f600", "\u2028", "word "]


class PlainText:
    """A text as a list of characters with their kinds."""

    def __init__(self):
        self.characters = []

    def append(self, offset, pieces):
        characters = [(c, piece.kind) for piece in pieces for c in piece.text]
        skip = len(self.characters) - offset
        if skip >= 0:
            self.characters += characters[skip:]

    def since(self, offset):
        groups = itertools.groupby(self.characters[offset:], lambda pair: pair[1])
        return [Piece(kind, "".join(c for c, _ in group)) for kind, group in groups]

    def answer(self):
        return "".join(c for c, kind in self.characters if kind == ANSWER)


def random_kind(dice):
    return THINKING if dice.random() < 0.3 else ANSWER


def random_pieces(dice):
    return [
        Piece(random_kind(dice), "".join(dice.choices(ALPHABET, k=dice.randrange(4))))
        for _ in range(dice.randrange(4))
    ]


def make(*pieces):
    text = Text()
    for one in pieces:
        text.append(text.length, [one])
    return text


@pytest.mark.parametrize("pieces_per_block", [1, 3, 16, texts.PIECES_PER_BLOCK])
@pytest.mark.parametrize("seed", range(4))
def test_a_text_behaves_like_a_list_of_characters(monkeypatch, seed, pieces_per_block):
    monkeypatch.setattr(texts, "PIECES_PER_BLOCK", pieces_per_block)
    dice = random.Random(seed)
    text, plain = Text(), PlainText()
    for _ in range(200):
        offset = max(0, text.length + dice.choice([0, 0, 0, -1, -3, -10, 1, 5]))
        pieces = random_pieces(dice)
        text.append(offset, pieces)
        plain.append(offset, pieces)
        assert text.length == len(plain.characters)
        for start in (0, text.length, text.length + 1, dice.randrange(text.length + 1)):
            assert text.since(start) == plain.since(start)
    assert text.answer() == plain.answer()


def test_a_new_text_is_empty():
    assert (Text().length, Text().since(0), Text().answer(), Text().size_bytes) == (0, [], "", 0)


def test_empty_pieces_are_ignored():
    text = make(Piece(ANSWER, ""), Piece(THINKING, ""))
    assert (text.length, text.since(0), text.size_bytes) == (0, [], 0)


@pytest.mark.parametrize("thinking, answer", [
    ("", ""), ("Hm", ""), ("Hmm.", ""), ("Hmm.", "Be"), ("Hmm.", "Because"),
])
def test_a_streamed_part_of_the_result_is_its_beginning(thinking, answer):
    text = make(*[Piece(THINKING, c) for c in thinking], *[Piece(ANSWER, c) for c in answer])
    assert text.is_beginning_of("Hmm.", "Because")


@pytest.mark.parametrize("pieces", [
    [Piece(ANSWER, "B")], [Piece(ANSWER, "Hmm.")],
    [Piece(THINKING, "Hm"), Piece(ANSWER, "Be")], [Piece(THINKING, "hm")],
    [Piece(THINKING, "Hmm.Be")], [Piece(THINKING, "Hmm."), Piece(ANSWER, "Because.")],
    [Piece(THINKING, "Hmm."), Piece(ANSWER, "because")],
    [Piece(ANSWER, "Because"), Piece(THINKING, "Hmm.")],
    [Piece(THINKING, "H"), Piece(ANSWER, "Be"), Piece(THINKING, "mm.")],
])
def test_a_text_that_differs_from_the_result_is_not_its_beginning(pieces):
    assert not make(*pieces).is_beginning_of("Hmm.", "Because")


def test_is_beginning_of_works_without_thinking():
    assert make(Piece(ANSWER, "Be")).is_beginning_of("", "Because")
    assert not make(Piece(THINKING, "B"), Piece(ANSWER, "e")).is_beginning_of("", "Because")


def test_the_size_is_at_least_that_of_the_text():
    for character in ("a", "é", "\u2028", "\U0001f600"):
        text = make(*[Piece(ANSWER, character)] * 3000)
        assert text.size_bytes >= len((character * 3000).encode("utf-8"))


def test_many_small_pieces_take_less_than_twice_their_text():
    text = make(*[Piece(ANSWER, "abcd")] * 50_000)
    assert text.size_bytes < 2 * 200_000


def write(count):
    text = Text()
    for number in range(count):
        text.append(4 * number, [Piece(ANSWER, "abcd")])


def write_and_read_along(count):
    text, offset = Text(), 0
    for number in range(count):
        text.append(4 * number, [Piece(ANSWER, "abcd")])
        offset += sum(len(piece.text) for piece in text.since(offset))
    assert offset == 4 * count


def write_both_kinds(count):
    text = Text()
    for number in range(count):
        text.append(4 * number, [Piece(THINKING, "ab"), Piece(ANSWER, "cd")])


def cpu_seconds(work, count):
    """Return the CPU time of a run in this thread, so that other load does not count."""
    gc.collect()
    began_at = time.thread_time()
    work(count)
    return time.thread_time() - began_at


@pytest.mark.parametrize("work", [write, write_and_read_along, write_both_kinds])
def test_four_times_the_text_costs_about_four_times_as_much(work):
    # A quadratic cost would be sixteen times as much.
    assert cpu_seconds(work, 40_000) < 10 * max(cpu_seconds(work, 10_000) for _ in range(2))
