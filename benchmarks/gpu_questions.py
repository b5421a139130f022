"""What `benchmarks.gpu` works on: generated questions, with nothing on a disk."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import nn

from seqvis.corpus.pairs import PairTable, Side
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ModelSettings
from seqvis.text.vocabulary import EOS, Vocabulary
from seqvis.translation.task import TranslationTask


@dataclass(frozen=True)
class Scale:
    """How much of everything there is."""

    pairs: int = 45_000
    words: tuple[int, int] = (11_200, 10_200)  # of the lesson's vocabularies
    model: ModelSettings = field(default_factory=ModelSettings)
    batch: int = 125
    checked: int = 5  # steps that the CPU makes too
    captions: int = 1000
    pictures: int = 2000
    pixels: int = 224
    vectors: int = 1_000_000
    dimension: int = 300
    queries: int = 1000


SMALL = Scale(
    pairs=60, words=(400, 300), model=ModelSettings(embedding_size=24, hidden_size=16), batch=30,
    checked=1, captions=4, pictures=1, pixels=32, vectors=2000, dimension=16, queries=10,
)  # fmt: skip


@dataclass(frozen=True)
class Questions(TranslationTask):
    """The training of a translator of generated questions, with nothing on a disk."""

    pairs: PairTable
    words: tuple[int, int]

    @cached_property
    def train(self) -> PairTable:
        return self.pairs

    def build_model(self) -> nn.Module:
        return Seq2Seq(self.settings.model, *self.words)


def questions(scale: Scale) -> tuple[PairTable, list[list[int]]]:
    """Return pairs to train on, and sentences to translate, by length.

    The grammar has few words: the vocabularies are filled up with words that never occur.
    """
    pairs = generate_pairs(scale.pairs + scale.captions, seed=1)
    sides = []
    for side, size in enumerate(scale.words):
        tokens = [re.findall(r"\w+|[^\w\s]", pair[side].lower()) for pair in pairs]
        known = Vocabulary.build(Counter(word for line in tokens for word in line)).words
        unused = [f"unused{number}" for number in range(size - len(known))]
        vocabulary = Vocabulary((*known, *unused))
        sides.append([[*vocabulary.ids(line), EOS] for line in tokens])
    source, target = (_side(ids[: scale.pairs]) for ids in sides)
    return PairTable(source, target), sorted(sides[0][scale.pairs :], key=len)


def _side(ids: Sequence[Sequence[int]]) -> Side:
    offsets = np.cumsum([0, *map(len, ids)])
    return Side(np.concatenate([np.array(line, np.uint16) for line in ids]), offsets)
