"""Columns of tokens hold what the tokenizers find, and are cut and numbered as lists would be."""

import random
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from seqvis.corpus.columns import TOKENS, read_tokens, shortened, tokenize_column
from seqvis.text.tokenizers import (
    Tokenizer,
    TokenizerSettings,
    load_tokenizer,
    train_sentencepiece,
)

WORDS = ["l'homme", "don't", "“Où?”", "aujourd’hui", "I", "mot-clé", "…", "U.S.", "(e.g.)", "東京"]
SPACES = [character for character in map(chr, range(0x3001)) if character.isspace()]


def odd_lines(seed: int = 0, count: int = 500) -> list[str]:
    draw = random.Random(seed)
    lines = ["", " ", "a", " b  c "]
    while len(lines) < count:
        words = draw.choices(WORDS, k=draw.randrange(12))
        lines.append("".join(word + draw.choice([" ", *SPACES]) for word in words))
    return lines


def tokenizers() -> Iterator[Tokenizer]:
    for kind in ("spacy", "whitespace"):
        for normalize in (False, True):
            yield load_tokenizer(
                TokenizerSettings(kind=kind, language="fr", normalize_punctuation=normalize)
            )
    settings = TokenizerSettings(kind="sentencepiece", language="fr", case_token=True)
    model = train_sentencepiece([" ".join(WORDS)] * 20, settings, 300, 0)
    yield load_tokenizer(settings, model)


@pytest.mark.parametrize(
    "tokenizer", tokenizers(), ids=lambda tokenizer: str(tokenizer.settings.kind)
)
def test_a_column_holds_the_tokens_of_each_line(tokenizer: Tokenizer) -> None:
    lines = odd_lines()
    column = tokenize_column(tokenizer, pa.array(lines))
    assert column.type == TOKENS
    assert column.to_pylist() == tokenizer.tokenize_many(lines)
    words = read_tokens(pa.chunked_array([column])).words
    assert len(words) == len(set(words))


def test_a_slice_of_texts_is_a_column_of_its_own() -> None:
    tokenizer = load_tokenizer(TokenizerSettings(kind="whitespace", language="fr"))
    lines = odd_lines()
    column = tokenize_column(tokenizer, pa.array(lines)[100:130])
    assert column.to_pylist() == tokenizer.tokenize_many(lines[100:130])


@pytest.mark.parametrize("longest", [0, 1, 5, None])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_kept_rows_are_cut_numbered_and_ended(longest: int | None, share: float) -> None:
    tokenizer = load_tokenizer(TokenizerSettings(kind="whitespace", language="fr"))
    lines = odd_lines()
    table = pa.table({"tokens": tokenize_column(tokenizer, pa.array(lines))})
    kept = np.random.default_rng(0).random(len(lines)) < share
    tokens = read_tokens(table.filter(pa.array(kept))["tokens"])
    ids = np.arange(100, 100 + len(tokens.words)).astype(np.uint16)
    expected = [
        [*(100 + tokens.words.index(token) for token in tokenizer.tokenize(line)[:longest]), 2]
        for line, keep in zip(lines, kept, strict=True)
        if keep
    ]
    assert shortened(tokens, longest, ids, 2).to_pylist() == expected
