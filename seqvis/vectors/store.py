"""A store of word vectors on disk, which opens in milliseconds because nothing is loaded.

`WordVectors.open` maps an artifact of kind "vectors" into memory:

    vectors.npy       float32 or float16 [rows, dimension]; a page is read when a word is looked up
    words.bin         all words, UTF-8, end to end        word_ends.npy     where each ends in it
    sorted_words.npy  numbers of the words in byte order; a lookup is a binary search in it
    word_rows.npy     each word's row in vectors.npy; several words may share a row
    subwords.npy      fastText's n-gram rows, if they were kept; they give other words a vector

Opening checks the sizes of the files, not their SHA-256, because that would read gigabytes;
`open(..., verify=True)` checks both.

`Subwords` computes vectors of words that a model never saw from their character n-grams, as
fastText does (Bojanowski et al. 2017, and dictionary.cc, which the numbering follows). Its hash
(FNV-1a) takes each byte as a *signed* character, so the bytes of accented letters are
sign-extended.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqvis.artifacts import Artifact, load
from seqvis.checks import check_several
from seqvis.errors import ArtifactError
from seqvis.nodefiles import made_once
from seqvis.storage import Place
from seqvis.text.characters import clean_text, normalize_punctuation
from seqvis.text.spacing import CAPITALIZED, UPPER
from seqvis.text.vocabulary import PAD, SPECIALS, Vocabulary

END_OF_SENTENCE = "</s>"  # fastText's own token; it has no n-grams
_FNV_OFFSET = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)


@dataclass(frozen=True)
class Subwords:
    """The n-gram half of a fastText model: `matrix` holds one row for each hash bucket."""

    shortest: int  # characters of the shortest n-gram, the word's boundary marks among them
    longest: int
    matrix: np.ndarray  # [buckets, dimension], may be memory-mapped

    def vector(self, word: str) -> np.ndarray | None:
        """Return the mean of the word's n-gram rows, float32 [dimension]; None without n-grams."""
        numbers, _ = self.numbers([word])
        if not len(numbers):
            return None
        rows = np.asarray(self.matrix[numbers], dtype=np.float32)
        mean: np.ndarray = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def numbers(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the bucket numbers of all n-grams of `words`.

        Returns them word after word (int64 [total]) and how many each word has
        (int64 [len(words)]). An n-gram that occurs twice in a word counts twice.
        """
        marked = [b"" if w == END_OF_SENTENCE else b"<" + w.encode() + b">" for w in words]
        lengths = np.array([len(word) for word in marked], dtype=np.int64)
        if not len(self.matrix) or self.longest <= 0 or not lengths.sum():
            return np.empty(0, np.int64), np.zeros(len(words), np.int64)
        text = np.frombuffer(b"".join(marked), dtype=np.int8)
        word_of_byte = np.repeat(np.arange(len(words)), lengths)
        ends = np.cumsum(lengths)
        is_start = (text.view(np.uint8) & 0xC0) != 0x80  # not a continuation byte of UTF-8

        start = np.flatnonzero(is_start)  # each character may begin an n-gram
        owner = word_of_byte[start]
        first = start == (ends - lengths)[owner]
        position = start.copy()
        state = np.full(len(start), _FNV_OFFSET, dtype=np.uint32)
        ngrams: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for size in range(1, self.longest + 1):
            alive = position < ends[owner]
            start, owner, first = start[alive], owner[alive], first[alive]
            position, state = position[alive], state[alive]
            if not len(start):
                break
            _append_character(text, is_start, ends[owner], position, state)
            if size >= self.shortest:
                keep = np.ones(len(start), dtype=bool)
                if size == 1:  # the boundary marks alone are no n-grams
                    keep = ~first & (position < ends[owner])
                order = np.full(int(keep.sum()), size)
                ngrams.append(
                    (owner[keep], start[keep], order, state[keep] % np.uint32(len(self.matrix)))
                )
        if not ngrams:
            return np.empty(0, np.int64), np.zeros(len(words), np.int64)
        owners, starts, sizes, hashed = (np.concatenate(part) for part in zip(*ngrams, strict=True))
        order = np.lexsort((sizes, starts))
        return hashed[order].astype(np.int64), np.bincount(owners, minlength=len(words))


def _append_character(
    text: np.ndarray,
    is_start: np.ndarray,
    ends: np.ndarray,
    position: np.ndarray,
    state: np.ndarray,
) -> None:
    """Hash the one to four bytes of the character at each `position`, in place."""
    pending = np.arange(len(position))
    while len(pending):
        at = position[pending]
        signed = text[at].astype(np.int32).view(np.uint32)
        state[pending] = (state[pending] ^ signed) * _FNV_PRIME
        position[pending] += 1
        following = position[pending]
        inside = following < ends[pending]
        pending, following = pending[inside], following[inside]
        pending = pending[~is_start[following]]


KIND = "vectors"
VECTORS, SUBWORDS = "vectors.npy", "subwords.npy"
WORDS, WORD_ENDS = "words.bin", "word_ends.npy"
SORTED_WORDS, WORD_ROWS = "sorted_words.npy", "word_rows.npy"


class WordVectors:
    """Word vectors, looked up on disk. Safe to share between threads; pickles as its location."""

    def __init__(self, folder: Path, artifact: Artifact):
        self._folder = folder
        self.artifact = artifact
        self._vectors = _map(folder / VECTORS)
        self._ends = _map(folder / WORD_ENDS)
        self._sorted = _map(folder / SORTED_WORDS)
        self._rows = _map(folder / WORD_ROWS)
        self._text = np.memmap(folder / WORDS, dtype=np.uint8, mode="r").view(np.ndarray)
        self.subwords: Subwords | None = None
        if SUBWORDS in artifact.files:
            sizes = artifact.metrics["subwords"]
            self.subwords = Subwords(sizes["shortest"], sizes["longest"], _map(folder / SUBWORDS))
        self._check_shapes()

    @classmethod
    def open(cls, uri: Place, verify: bool = False) -> Self:
        """Open the store that `build_vectors` wrote; one in an object store is copied here once.

        Raises ArtifactError if it is missing, of another kind, incomplete, or (found only with
        `verify`, about 1 s per GB) altered with its size unchanged.
        """
        artifact = load(uri, KIND, verify=verify)
        return cls(_local_folder(artifact), artifact)

    @property
    def dimension(self) -> int:
        return int(self._vectors.shape[1])

    @property
    def standard_deviation(self) -> float:
        """Standard deviation of all elements of the stored matrix."""
        return float(self.artifact.metrics["standard_deviation"])

    def fingerprint(self) -> str:
        """Return a short hash of all files, equal for stores with equal content."""
        return self.artifact.fingerprint()

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self._ends)

    def __contains__(self, word: object) -> bool:
        """Tell whether the word is stored; words that only sub-words could make are not."""
        return isinstance(word, str) and self._number(word) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).open, (self.artifact.location,))

    def vector(self, word: str) -> np.ndarray | None:
        """Return the word's vector, float32 [dimension], or its sub-words'; None without either."""
        number = self._number(word)
        if number is not None:
            return self.stored(number)
        return self.subwords.vector(clean_text(word)) if self.subwords is not None else None

    def stored(self, number: int) -> np.ndarray:
        """Return the vector of a word by its place in `words`, float32 [dimension]."""
        return np.array(self._vectors[self._rows[number]], dtype=np.float32)

    def find(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of `words`, float32 [n, dimension], and which were found, bool [n].

        Rows of words that were not found are zeros.
        """
        check_several(words, "words")
        vectors = np.zeros((len(words), self.dimension), dtype=np.float32)
        known = np.zeros(len(words), dtype=bool)
        for place, word in enumerate(words):
            vector = self.vector(word)
            if vector is not None:
                vectors[place], known[place] = vector, True
        return vectors, known

    def words(self) -> Iterator[str]:
        """Yield all words, in the order of the source: most sources put frequent words first."""
        begin = 0
        for end in self._ends.tolist():
            yield self._text[begin:end].tobytes().decode()
            begin = end

    def _bytes(self, number: int) -> bytes:
        begin = int(self._ends[number - 1]) if number else 0
        return self._text[begin : int(self._ends[number])].tobytes()

    def _number(self, word: str) -> int | None:
        """Return the place of the word as it is or in another form of the same characters."""
        number = self._search(word)
        if number is None and not word.isascii():
            clean = clean_text(word)
            for form in (clean, normalize_punctuation(clean), unicodedata.normalize("NFD", clean)):
                number = self._search(form) if number is None and form != word else number
        return number

    def _search(self, word: str) -> int | None:
        """Find a word by binary search: about 21 comparisons in 2.5 million words."""
        try:
            wanted = word.encode()
        except UnicodeEncodeError:  # a lone surrogate: no source can hold it
            return None
        low, high = 0, len(self._sorted)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(int(self._sorted[middle])) < wanted:
                low = middle + 1
            else:
                high = middle
        if low < len(self._sorted):
            number = int(self._sorted[low])
            if self._bytes(number) == wanted:
                return number
        return None

    def _check_shapes(self) -> None:
        words = len(self._ends)
        fits = self._vectors.ndim == 2 and len(self._sorted) == len(self._rows) == words
        fits = fits and words > 0 and int(self._ends[-1]) == len(self._text)
        if self.subwords is not None:
            fits = fits and self.subwords.matrix.shape[1:] == self._vectors.shape[1:]
        if not fits:
            raise ArtifactError(
                f"{self.artifact.location.uri}: its files do not fit together; "
                f"make it again with seqvis build-vectors"
            )


def embedding_matrix(
    vocabulary: Vocabulary, vectors: WordVectors, generator_seed: int
) -> np.ndarray:
    """Make an embedding that starts from word vectors.

    Returns float32 [len(vocabulary), dimension], a row for each id. Vectors are divided by the
    store's standard deviation (lesson 11 multiplies by 3 where it is 0.29), which puts them on
    the scale of the rows of words without a vector, drawn from a normal(0, 1) distribution. The
    padding row (1) is zeros. A word is looked up as it is, then in lower case, then by its
    sub-words; specials and case tokens always get random rows.
    """
    generator = np.random.default_rng(generator_seed)
    matrix = generator.standard_normal((len(vocabulary), vectors.dimension), dtype=np.float32)
    scale = np.float32(1.0 / (vectors.standard_deviation or 1.0))  # 0: all numbers are equal
    for row, word in enumerate(vocabulary.words):
        vector = None if is_marker(word) else vector_in_any_case(vectors, word)
        if vector is not None:
            matrix[row] = vector * scale
    matrix[PAD] = 0.0
    return matrix


def words_without_vector(vocabulary: Vocabulary, vectors: WordVectors) -> list[str]:
    """Return the words whose rows `embedding_matrix` draws at random, without markers."""
    words = (word for word in vocabulary.words if not is_marker(word))
    return [word for word in words if vector_in_any_case(vectors, word) is None]


def vector_in_any_case(vectors: WordVectors, word: str) -> np.ndarray | None:
    """Return the vector of the word as it is, else in lower case, else from its sub-words."""
    if word not in vectors and word.lower() in vectors:
        return vectors.vector(word.lower())
    return vectors.vector(word)


def is_marker(word: str) -> bool:
    """Tell whether a vocabulary entry is a special (`_bos_`, ...) or a case token, not a word."""
    return word in SPECIALS or word in (CAPITALIZED, UPPER)


def _map(path: Path) -> np.ndarray:
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be mapped into memory ({error}); make the vectors again with "
            f"seqvis build-vectors"
        ) from error
    return mapped.view(np.ndarray)  # slicing a memmap object itself is ten times slower


def _local_folder(artifact: Artifact) -> Path:
    """Return the artifact's folder; one in an object store is fetched once a node."""
    if artifact.location.is_local:
        return Path(artifact.location.path)
    size = sum(entry["size"] for entry in artifact.files.values())
    return made_once(f"vectors-{artifact.fingerprint()}", size, artifact.local_copy)
