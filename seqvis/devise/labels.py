"""Find word vectors for labels: for WordNet's synsets by their names, for other labels directly.

`label_vectors` takes labels (wnids or plain names) and a store of word vectors. It tries, in this
order, the first name as it stands, the name in lower case, further names of the synset, the mean of
the words of a compound name, and fastText's sub-words, and reports which one succeeded. A plain
name that is not found as it stands is tidied first: `001.Goldfish`, `cat (2)`, `GermanShepherd`. A
label without a vector stays in the list with a row of zeros, and `has_vector` is false for it.

`WordNet` holds WordNet 3.0's nouns and their hierarchy, from `data/nouns.tsv.gz` in this package
(licence: `data/LICENSE.wordnet`): a line for each of 82,115 synsets with wnid, lemmas and
hypernyms. A wnid is `n` and the eight digits of WordNet's offset, as
ImageNet names its classes. Instances (`Paris`) count as hyponyms of their class (`city`), because
the table lists both as hypernyms.
"""

import gzip
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Self

import numpy as np

from seqvis.checks import check_several
from seqvis.text.characters import clean_text
from seqvis.vectors.store import WordVectors
from seqvis.vision.layouts import wnid_at_start

_DATA = resources.files("seqvis.devise") / "data"


class WordNet:
    """All noun synsets. Read-only; `load` takes a third of a second."""

    def __init__(self, lemmas: Mapping[str, tuple[str, ...]], up: Mapping[str, tuple[str, ...]]):
        self._lemmas = lemmas
        self._up = up
        down: dict[str, list[str]] = {}
        for wnid, above in up.items():
            for hypernym in above:
                down.setdefault(hypernym, []).append(wnid)
        self._down = {wnid: tuple(below) for wnid, below in down.items()}

    @classmethod
    def load(cls) -> Self:
        lemmas, up = {}, {}
        with gzip.open(_DATA.joinpath("nouns.tsv.gz").open("rb"), "rt", encoding="utf-8") as lines:
            for line in lines:
                wnid, names, above = line.rstrip("\n").split("\t")
                if wnid != "wnid":
                    lemmas[wnid] = tuple(names.split())
                    up[wnid] = tuple(above.split())
        return cls(lemmas, up)

    def __contains__(self, wnid: object) -> bool:
        return wnid in self._lemmas

    def __len__(self) -> int:
        return len(self._lemmas)

    @property
    def wnids(self) -> list[str]:
        return list(self._lemmas)

    def lemmas(self, wnid: str) -> tuple[str, ...]:
        """Return the synset's names, most usual first; words of one are joined by `_`."""
        return self._lemmas[wnid]

    def name(self, wnid: str) -> str:
        """Return the synset's first name, with spaces."""
        return self._lemmas[wnid][0].replace("_", " ")

    def hypernyms(self, wnid: str) -> tuple[str, ...]:
        """Return what it is a kind of: the synsets directly above."""
        return self._up[wnid]

    def hyponyms(self, wnid: str) -> tuple[str, ...]:
        """Return the kinds of it: the synsets directly below."""
        return self._down.get(wnid, ())

    def with_hypernyms(self, wnids: Iterable[str]) -> set[str]:
        """Return the given synsets and all that are above them."""
        reached: set[str] = set()
        ring = set(wnids)
        while ring:
            reached |= ring
            ring = {above for wnid in ring for above in self._up[wnid]} - reached
        return reached

    def rings(self, wnids: Iterable[str]) -> Iterator[set[str]]:
        """Yield the given synsets, then those one step up or down from them, and so on."""
        ring = set(wnids)
        reached = set(ring)
        while ring:
            yield ring
            around = {near for wnid in ring for near in (*self._up[wnid], *self.hyponyms(wnid))}
            ring = around - reached
            reached |= ring

    def within_hops(self, wnids: Collection[str], hops: int) -> set[str]:
        """Return the other synsets at most `hops` steps up or down from any of `wnids`.

        The 2-hop and 3-hop label sets of the DeViSE paper (Frome et al. 2013), section 4.3.
        """
        reached: set[str] = set()
        for distance, ring in enumerate(self.rings(wnids)):
            if distance > hops:
                break
            reached |= ring
        return reached - set(wnids)

    def nearest_labels(
        self, wnid: str, sizes: Iterable[int], valid: Collection[str]
    ) -> dict[int, set[str]]:
        """Return the set S_k of hierarchical precision@k for each k of `sizes`, in rising order.

        A set grows from the synset by one ring of hypernyms and hyponyms at a time, of which only
        `valid` labels count, until it holds at least k; the last ring is taken whole (Frome et al.
        2013, appendix A). All of `valid` must be nouns of WordNet.
        """
        rings = self.rings([wnid])
        labels: set[str] = set()
        nearest = {}
        for k in sizes:
            while len(labels) < k < len(valid) and (ring := next(rings, None)):
                labels.update(label for label in ring if label in valid)
            nearest[k] = set(labels if k < len(valid) else valid)
        return nearest


def imagenet_classes() -> list[tuple[str, str]]:
    """Return wnid and name of ImageNet's 1,000 classes (ILSVRC 2012), by class number."""
    text = _DATA.joinpath("ilsvrc2012.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in text.splitlines())
    return [(wnid, name) for wnid, name in pairs]


EXACT, LOWER, FURTHER = "exact name", "lower case", "further name"
TIDIED, MEAN, SUBWORDS, NONE = "tidied name", "mean of words", "sub-words", "not found"
WAYS = (EXACT, LOWER, FURTHER, TIDIED, MEAN, SUBWORDS, NONE)

LESSON_COVERAGE = 49_469  # of WordNet's nouns in lesson 11's fastText vectors

MANY = 2000  # labels

_BETWEEN_WORDS = re.compile(r"[\s_\-/'’]+")
_WNID = re.compile(r"n\d{8}")
_IN_BRACKETS = re.compile(r"\([^()]*\)|\[[^][]*\]|\{[^{}]*\}")
_NUMBERING = re.compile(r"^\W*\d+[\W_]+(?=\w)|[\W_]+\d{1,2}\W*$")
_CASE_CHANGES = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_LETTERS = re.compile(r"[^\w\s'’-]+|_")


@dataclass(frozen=True)
class LabelVectors:
    """Labels and their word vectors."""

    labels: list[str]  # wnids or names
    names: list[str]  # to be read
    vectors: np.ndarray  # float32 [labels, dimension], of unit length; zeros where not found
    how: list[str]  # one of WAYS
    failed: list[tuple[str, ...]]  # names and words without a vector; empty where one was found

    @property
    def has_vector(self) -> np.ndarray:
        """bool [labels]."""
        return np.array([way != NONE for way in self.how], dtype=bool)

    def coverage(self) -> dict[str, int]:
        """Return how many labels were found, in all and in each way."""
        counts = Counter(self.how)
        count = len(self.how) - counts[NONE]
        return {"labels": len(self.how), "found": count, **{way: counts[way] for way in WAYS}}

    def take(self, rows: Sequence[int] | np.ndarray) -> "LabelVectors":
        """Return the labels of these rows, in their order."""
        return LabelVectors(
            [self.labels[row] for row in rows],
            [self.names[row] for row in rows],
            self.vectors[np.asarray(rows, dtype=int)],
            [self.how[row] for row in rows],
            [self.failed[row] for row in rows],
        )


def is_wnid(label: str) -> bool:
    """Tell whether the label has the form of a synset's id."""
    return _WNID.fullmatch(label) is not None


def label_vectors(labels: Sequence[str], vectors: WordVectors, wordnet: WordNet) -> LabelVectors:
    """Return the word vector of each label, of unit length, and how it was found."""
    check_several(labels, "labels")
    rows = np.zeros((len(labels), vectors.dimension), dtype=np.float32)
    names, how, failed = [], [], []
    all_names = [_names(label, wordnet) for label in labels]
    words = _Words(vectors, [(*lemmas, *tidied) for lemmas, tidied in all_names])
    for number, (lemmas, tidied) in enumerate(all_names):
        vector, way = _find_name(lemmas, words)
        name = lemmas[0]
        if vector is None:
            vector, way = _find(tidied or lemmas, words)
            if tidied and vector is not None:
                name = tidied[0]
                if name != lemmas[0].replace("_", " "):
                    way = TIDIED
        length = 0.0 if vector is None else float(np.linalg.norm(vector))
        if vector is not None and length > 0:
            rows[number] = vector / length
        else:
            way = NONE
        names.append(name.replace("_", " "))
        how.append(way)
        failed.append(_failed((*lemmas, *tidied), words) if way == NONE else ())
    return LabelVectors(list(labels), names, rows, how, failed)


def tidied(name: str) -> str:
    """Return a name without numbering, brackets and punctuation, its words apart, or "".

    `001.Goldfish`, `cat (2)`, `crane (bird)` and `GermanShepherd` become `Goldfish`, `cat`, `crane`
    and `German Shepherd`.
    """
    without = _IN_BRACKETS.sub(" ", name)
    if any(letter.isalpha() for letter in without):
        name = without
    name = _CASE_CHANGES.sub(" ", _NUMBERING.sub(" ", name))
    words = (word.strip("-'’") for word in _NO_LETTERS.sub(" ", name).split())
    name = " ".join(word for word in words if word)
    return name if any(letter.isalpha() for letter in name) else ""


def _names(label: str, wordnet: WordNet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that a label is looked up by as they stand, and those to try after that."""
    wnid = wnid_at_start(label)
    if wnid in wordnet:
        return wordnet.lemmas(str(wnid)), ()
    name = clean_text(label)
    alternatives = (tidied(part) for part in re.split("[,;|]", name))  # "tench, Tinca tinca"
    names = dict.fromkeys(form for form in (*alternatives, tidied(name)) if form)
    return (name,), () if is_wnid(label) else tuple(names)


def _failed(names: Sequence[str], vectors: "_Words") -> tuple[str, ...]:
    """Return the names, and those of their words that have no vector either."""
    words = [word for name in names for word in _BETWEEN_WORDS.split(name)]
    return tuple(dict.fromkeys((*names, *(word for word in words if vectors.unit(word) is None))))


class _Words:
    """The words of the store that some names may need; each vector is read once."""

    def __init__(self, vectors: WordVectors, all_lemmas: Sequence[Sequence[str]]):
        self.vectors = vectors
        self._numbers: dict[str, int] | None = None
        self._units: dict[str, np.ndarray | None] = {}
        if len(all_lemmas) > MANY:  # one pass over all words beats a search for each form
            forms = {form for lemmas in all_lemmas for lemma in lemmas for form in _forms(lemma)}
            words = enumerate(vectors.words())
            self._numbers = {word: number for number, word in words if word in forms}

    def __contains__(self, word: object) -> bool:
        return word in (self.vectors if self._numbers is None else self._numbers)

    def vector(self, word: str) -> np.ndarray | None:
        if self._numbers is not None and word in self._numbers:
            return self.vectors.stored(self._numbers[word])
        return self.vectors.vector(word)

    def unit(self, word: str) -> np.ndarray | None:
        """Return the vector of a part of a name, of unit length; sub-words may make it."""
        if word not in self._units:
            form = word if word in self else word.lower()
            is_there = form in self or self.vectors.subwords is not None
            vector = self.vector(form) if is_there else None
            length = 0.0 if vector is None else float(np.linalg.norm(vector))
            self._units[word] = vector / length if vector is not None and length > 0 else None
        return self._units[word]


def _forms(lemma: str) -> set[str]:
    """Return every word that looking up the lemma may ask for."""
    parts = _BETWEEN_WORDS.split(lemma)
    forms = {*_spellings(lemma), *_spellings(lemma.lower()), *parts}
    return forms | {part.lower() for part in parts}


def _find_name(lemmas: Sequence[str], vectors: _Words) -> tuple[np.ndarray | None, str]:
    """Return the vector of one of the names as vector files write it."""
    for place, lemma in enumerate(lemmas):
        for form in _spellings(lemma):
            if form in vectors:
                return vectors.vector(form), FURTHER if place else EXACT
        for form in _spellings(lemma.lower()):
            if form in vectors:
                return vectors.vector(form), FURTHER if place else LOWER
    return None, NONE


def _find(lemmas: Sequence[str], vectors: _Words) -> tuple[np.ndarray | None, str]:
    vector, way = _find_name(lemmas, vectors)
    if vector is not None:
        return vector, way
    for lemma in lemmas:
        mean = _mean_of_words(lemma, vectors)
        if mean is not None:
            return mean, MEAN
    if vectors.vectors.subwords is not None:
        for lemma in lemmas:
            vector = vectors.vector(lemma.replace(" ", "_"))
            if vector is not None and not is_wnid(lemma):  # an id is no word, whatever its letters
                return vector, SUBWORDS
    return None, NONE


def _spellings(name: str) -> Iterator[str]:
    """Yield the name as vector files write names of several words."""
    joined = name.replace(" ", "_")
    yield joined
    if "_" in joined:
        yield joined.replace("_", "-")
        yield joined.replace("_", " ")


def _mean_of_words(name: str, vectors: _Words) -> np.ndarray | None:
    """Average the unit vectors of a name's words; None if one has none or there is only one."""
    words = [word for word in _BETWEEN_WORDS.split(name) if word]
    if len(words) < 2:
        return None
    known = [vector for word in words if (vector := vectors.unit(word)) is not None]
    return np.mean(known, axis=0) if len(known) == len(words) else None
