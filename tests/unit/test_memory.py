"""What a replica keeps of the requests that it has answered: nothing that grows with them."""

import random
import string
from typing import Any

import pytest

from seqvis.text import tokenizers
from seqvis.text.spacyrules import spacy_tokenizer
from seqvis.text.tokenizers import FEW_WORDS, TokenizerSettings, load_tokenizer
from seqvis.translation.translator import Translator


def new_words(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase, k=12)) for _ in range(count)]


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
    words = new_words(3 * FEW_WORDS)
    tokenizer: Any = translator.languages.source_tokenizer
    most = 0
    for begin in range(0, len(words), 64):
        (sentence,) = translator.read([" ".join(words[begin : begin + 64])])
        assert sentence.unknown == words[begin : begin + 64]
        most = max(most, len(tokenizer._cache))
    assert FEW_WORDS / 2 < most <= FEW_WORDS
