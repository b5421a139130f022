"""What a replica keeps of the requests that it has answered: nothing that grows with them."""

import os
import random
import string
import subprocess
import sys
from typing import Any

import pytest
import torch

from seqvis.decoding.linear import pack_linear, padded_rows
from seqvis.text import tokenizers
from seqvis.text.spacy_languages import spacy_tokenizer
from seqvis.text.tokenizers import FEW_WORDS, TokenizerSettings, load_tokenizer
from seqvis.translation.translator import Translator
from serve.environment import ENVIRONMENT

_PROGRAM = """
import re, threading
from pathlib import Path
from seqvis.process import keep_freed_memory

def written():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

def work(turn, end):
    turn.wait()
    pieces = [b"x" * (60_000 + n) for n in range(500)]
    del pieces
    done.set()
    end.wait()

keep_freed_memory()
before = written()
end = threading.Event()
turns = [threading.Event() for _ in range(8)]
threads = [threading.Thread(target=work, args=(turn, end)) for turn in turns]
for thread in threads:
    thread.start()
for turn in turns:
    done = threading.Event()
    turn.set()
    done.wait()
end.set()
print(written() - before)
"""
"""Eight threads, each of which takes 29 MiB and frees them, one after the other."""


def new_words(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase, k=12)) for _ in range(count)]


def test_products_are_made_for_few_numbers_of_rows() -> None:
    numbers = {padded_rows(rows) for rows in range(1, 513)}
    assert len(numbers) <= 20
    assert all(rows <= padded_rows(rows) <= 1.5 * rows for rows in range(2, 3000))
    assert {padded_rows(rows) % 512 for rows in range(513, 3000)} <= {0, *numbers}


def test_many_rows_are_multiplied_in_pieces_of_known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[int] = set()
    plain = torch._int_mm

    def noting(inputs: torch.Tensor, *others: Any) -> torch.Tensor:
        met.add(inputs.shape[0])
        return plain(inputs, *others)

    monkeypatch.setattr(torch, "_int_mm", noting)
    monkeypatch.setattr("seqvis.decoding.linear.computes", lambda precision: True)
    product = pack_linear(torch.randn(24, 16), None, "int8")
    inputs = torch.randn(1500, 16)
    together = product(inputs)
    for rows in (2, 17, 512, 513, 700, 1025, 1500):
        assert torch.equal(product(inputs[:rows]), together[:rows])
    assert met <= {padded_rows(rows) for rows in range(1, 513)}


@pytest.mark.parametrize("language", ["fr", "en"])
def test_spacy_keeps_no_word_that_it_has_split(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def make(name: str) -> Any:
        made.append(spacy_tokenizer(name))
        return made[-1]

    monkeypatch.setattr(tokenizers, "spacy_tokenizer", make)
    tokenizer = load_tokenizer(TokenizerSettings(language=language))
    tokenizer.tokenize("le chat the cat")
    (spacy,) = made
    before = len(spacy.vocab.strings)
    words = new_words(2000)
    assert tokenizer.tokenize(" ".join(words)) == words
    assert len(spacy.vocab.strings) == before


def test_a_translator_keeps_few_of_the_words_that_it_reads(translator: Translator) -> None:
    words = new_words(FEW_WORDS + FEW_WORDS // 2)
    tokenizer: Any = translator.languages.source_tokenizer
    most = 0
    for begin in range(0, len(words), 64):
        (sentence,) = translator.read([" ".join(words[begin : begin + 64])])
        assert sentence.unknown == words[begin : begin + 64]
        most = max(most, len(tokenizer._cache))
    assert FEW_WORDS / 2 < most <= FEW_WORDS


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is tuned")
def test_the_threads_of_a_replica_share_what_they_free() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    alone, shared = (
        int(
            subprocess.run(
                [sys.executable, "-c", _PROGRAM],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for environment in (plain, {**plain, **ENVIRONMENT})
    )
    assert shared < 60
    assert alone > 2 * shared
