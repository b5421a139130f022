"""Suggestions for words that are not known."""

import itertools
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from seqvis.search.words import Spelling, edit_costs
from seqvis.vectors.store import WordVectors
from tests.support.wordstores import WORDS, write_store


def reference_cost(wanted: str, word: str) -> int:
    """The cost of typing `word` for `wanted`, from the definition, by recursion."""

    @cache
    def cost(m: int, n: int) -> int:
        if not m or not n:
            return 4 * (m + n)
        choices = [cost(m - 1, n) + 4, cost(m, n - 1) + 4]
        choices.append(cost(m - 1, n - 1) + 4 * (wanted[m - 1] != word[n - 1]))
        if m > 1 and n > 1 and wanted[m - 2 : m] == word[n - 2 : n][::-1]:
            choices.append(cost(m - 2, n - 2) + 3)
        return min(choices)

    return cost(len(wanted), len(word))


@pytest.mark.parametrize("edits", [1, 2])
def test_edit_costs_are_those_of_the_definition_within_the_limit(edits: int) -> None:
    wanted = "abcab"
    for length in range(len(wanted) - edits, len(wanted) + edits + 1):
        words = ["".join(word) for word in itertools.product("abc", repeat=length)]
        letters = np.array([list(word.encode()) for word in words], dtype=np.uint8).T
        costs = edit_costs(np.frombuffer(wanted.encode(), np.uint8), letters, edits)
        for word, cost in zip(words, costs, strict=True):
            expected = reference_cost(wanted, word)
            assert cost == expected if expected <= 4 * edits else cost > 4 * edits


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("baot", "boat"),
        ("boatt", "boat"),
        ("bot", "boat"),
        ("Engien", "engine"),
        ("pupy", "puppy"),
        ("motorboat", "motor-boat"),
        ("été́", "été"),
    ],
)
def test_a_slip_finds_the_word_that_was_meant(
    typed: str, meant: str, vectors: WordVectors, tmp_path: Path
) -> None:
    write_store(tmp_path / "v", WORDS, np.ones((len(WORDS), 2)))
    assert Spelling.open(str(tmp_path / "v")).near(typed)[0] == meant


def test_frequent_words_come_first_and_junk_never(tmp_path: Path) -> None:
    words = ["beat", "b0at", "</at>", "boat", "http://boat", "BOAT", "bo.t", "bot", "coat", "b-at"]
    write_store(tmp_path / "v", words, np.ones((len(words), 2)))
    suggestions = Spelling.open(str(tmp_path / "v")).near("bxat", count=10)
    assert suggestions == ("beat", "boat", "b-at", "bot", "coat")


@pytest.mark.parametrize("typed", ["", "x", "x" * 5000, "\udcff\udcff", "\u65e5\u672c\u8a9e"])
def test_what_looks_like_no_word_gets_no_suggestion(typed: str, tmp_path: Path) -> None:
    write_store(tmp_path / "v", WORDS, np.ones((len(WORDS), 2)))
    assert Spelling.open(str(tmp_path / "v")).near(typed) == ()


def test_400_000_words_are_compared_in_well_under_a_second(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    ends = np.cumsum(generator.integers(2, 14, 400_000))
    text = generator.integers(ord("a"), ord("z") + 1, ends[-1]).astype(np.uint8)
    spelling = Spelling(text, np.concatenate([[0], ends[:-1]]), ends)
    started = time.perf_counter()
    spelling.near("vegtable")
    assert time.perf_counter() - started < 0.5
