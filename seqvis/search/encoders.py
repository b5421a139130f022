"""Encode queries in words and pictures as points of a collection's space.

`WordEncoder` turns the text of a query into a unit vector in the space of the model that the
collection was built with; `ImageEncoder` turns encoded pictures into `EncodedImage`s, and finds
the `Word`s near a vector. The collection records the location and fingerprint of that model and of
the word vectors. Any other model is refused, because its results would be meaningless.

Words need neither torch nor Pillow. An `ImageEncoder` loads them, with the backbone and WordNet's
vectors, on first use, which takes seconds; `warm_up` loads them earlier.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from seqvis.checks import check_several
from seqvis.collection.shards import describe
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.devise.space import WordSpaceModel, open_vectors
from seqvis.errors import ArtifactError, BadPictureError, DataError
from seqvis.search.candidates import Candidates, Word, find_candidates
from seqvis.search.queries import Query, parse_query, place_query
from seqvis.search.query_words import function_words_of
from seqvis.search.requests import EncodedImage, NameSet
from seqvis.search.spelling import Spelling
from seqvis.vectors.store import WordVectors

if TYPE_CHECKING:  # these load torch
    from seqvis.devise.model import DeviseModel
    from seqvis.vision.backbones import Backbone

_PATIENCE = 0.1  # seconds between looks at whether anybody still waits
NOT_KNOWN = "nothing that the model knows"
_NOT_KNOWN_TEXT = (
    "the query's picture shows nothing that the model knows: none of its likely classes has a "
    "word vector"
)

Trained = TypeVar("Trained", bound=WordSpaceModel)


class Described(Protocol):
    """A collection, either opened or only described."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def dimension(self) -> int: ...


class WordEncoder:
    """Turn text queries into vectors, each in well under 1 ms. Safe to share between threads."""

    def __init__(self, model: WordSpaceModel, vectors: WordVectors, uri: str | None = None):
        """`uri`: where the word vectors are now, if they were moved."""
        self.model = model
        self._vectors = vectors
        self._vectors_uri = uri or model.vectors_uri
        self._grammar = function_words_of(vectors)

    @classmethod
    def open(
        cls, collection: str | Path, model: str | None = None, vectors: str | None = None
    ) -> Self:
        """Open the model and the word vectors that a collection, sharded or not, records.

        `model` and `vectors` say where these are now, if they were moved. Raises ArtifactError if
        one is missing, or is not the one that the collection was built with.
        """
        trained = load_model_for(WordSpaceModel, describe(collection), model)
        return cls(trained, open_vectors(trained, vectors), vectors)

    @property
    def dimension(self) -> int:
        return self.model.dimension

    def read(self, query: str) -> Query:
        """Return how a query is understood in the language of the word vectors; `str` shows it.

        Raises QueryError if it cannot be read.
        """
        if not isinstance(query, str):
            raise TypeError(f"a query is one str, not {type(query).__name__}: {query!r}")
        return parse_query(query, self._grammar)

    def encode(self, query: str | Query, suggest: bool = True) -> np.ndarray:
        """Return a query's unit vector, float32 [dimension].

        Raises QueryError if it cannot be read or cancels to zero, UnknownWordError, with near
        spellings if it is to `suggest` them, for a word that has no vector.
        """
        read = query if isinstance(query, Query) else self.read(query)
        near = self.suggestions if suggest else lambda word: ()
        return place_query(read, self._vectors, self.model.place_words, near)

    def suggestions(self, word: str, deadline: Deadline = UNBOUNDED) -> tuple[str, ...]:
        """Return known words of near spelling: a fraction of a second among millions.

        Raises SearchTimeoutError.
        """
        return self._spelling.near(word, deadline=deadline)

    @cached_property
    def _spelling(self) -> Spelling:
        # Loaded for the first misspelt word, because it takes 50 MB for 2.5 million words.
        return Spelling.open(self._vectors_uri)


def load_model_for(kind: type[Trained], collection: Described, given: str | None = None) -> Trained:
    """Load the model that a collection was built with, at `given` if it was moved.

    `kind`: WordSpaceModel is enough for words, DeviseModel takes pictures too. Raises ArtifactError
    if the model is missing or another one.
    """
    model = kind.open(given) if given else _recorded(kind, collection)
    where = model.artifact.location.uri
    fingerprint = collection.config.get("model_fingerprint")
    if fingerprint not in (None, model.artifact.fingerprint()):
        raise ArtifactError(
            f"{collection.path}: was built by another model than {where}; give --model the one it "
            f"was built with, or build it anew with python -m jobs.build_index"
        )
    if model.dimension != collection.dimension:
        raise ArtifactError(
            f"{collection.path}: has vectors of dimension {collection.dimension}, but {where} "
            f"makes such of {model.dimension}; build it anew with python -m jobs.build_index"
        )
    return model


def _recorded(kind: type[Trained], collection: Described) -> Trained:
    recorded = collection.config.get("model")
    if not isinstance(recorded, str):
        raise ArtifactError(f"{collection.path}: does not say which model made it; give --model")
    try:
        return kind.open(recorded)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error} ({collection.path} records it; if it was moved, give --model)"
        ) from error


class ImageEncoder:
    """Turn pictures into vectors among words. Safe to share between threads.

    Threads decode pictures in parallel, but the network runs for one of them at a time.
    """

    def __init__(self, model: "DeviseModel", vectors: WordVectors, device: str = "cpu"):
        """`vectors`: those the model was trained with; `device`: where the network runs."""
        self.model = model
        self._vectors = vectors
        self._device = device
        self._candidates: dict[NameSet, Future[Candidates]] = {}
        self._finding = ThreadPoolExecutor(1, thread_name_prefix="candidates")
        self._loading, self._embedding = threading.Lock(), threading.Lock()

    @classmethod
    def open(
        cls,
        collection: str | Path,
        model: str | None = None,
        vectors: str | None = None,
        device: str = "cpu",
    ) -> Self:
        """Open as `WordEncoder.open` does; the network runs on `device`."""
        from seqvis.devise.model import DeviseModel

        trained = load_model_for(DeviseModel, describe(collection), model)
        return cls(trained, open_vectors(trained, vectors), device)

    def warm_up(self, candidates: Sequence[NameSet] = ("labels", "classes")) -> None:
        """Load the backbone and these candidates now, so that no query waits for them.

        Raises ArtifactError if the backbone's weights are gone or are others.
        """
        check_several(candidates, "sets of candidates")
        _ = self._backbone
        for among in candidates:
            self._names(among)

    def encode(self, content: bytes) -> EncodedImage:
        """Encode the picture in a file's bytes. Raises BadPictureError if it cannot be used."""
        image = self.encode_many([content])[0]
        if isinstance(image, BadPictureError):
            raise image
        return image

    def encode_many(self, contents: Sequence[bytes]) -> list[EncodedImage | BadPictureError]:
        """Encode several pictures in one run of the network; errors stand in their places.

        A picture's vector is the same in any company up to the rounding of float32. Raises
        TypeError for anything but bytes.
        """
        from seqvis.vision.images import BadImage, decode, enough, square, thumbnail

        check_several(contents, "pictures")
        results: list[EncodedImage | BadPictureError | None] = [None] * len(contents)
        squares: dict[int, np.ndarray] = {}
        shown: dict[int, tuple[int, int, bytes]] = {}
        size, fit = self._backbone.image_size, self._backbone.fit
        for number, content in enumerate(contents):
            try:
                decoded = decode(content, enough(size))
            except BadImage as error:
                text = f"the query's picture cannot be used: {error}"
                results[number] = BadPictureError(text, error.reason)
                continue
            squares[number] = square(decoded.picture, size, fit)
            shown[number] = decoded.width, decoded.height, thumbnail(decoded.picture)
        for number, vector in zip(squares, self._project(list(squares.values())), strict=True):
            results[number] = EncodedImage(vector, *shown[number])
            if not vector.any():
                results[number] = BadPictureError(_NOT_KNOWN_TEXT, NOT_KNOWN)
        return [result for result in results if result is not None]

    def classify(
        self,
        vector: np.ndarray,
        k: int = 10,
        candidates: NameSet = "classes",
        deadline: Deadline = UNBOUNDED,
    ) -> list[Word]:
        """Return the `k` words nearest to a picture's unit vector, best first.

        `candidates`: "labels" (the model's own), "classes" (ImageNet's 1,000), "wordnet" (all nouns
        with vectors). Among the model's own, unseen labels have its calibrated bonus in the
        ranking; among thousands of other nouns it would drown the seen ones. Searches of the
        collection never have one: all candidates there are pictures.

        The first time that all nouns are asked for takes some seconds: SearchTimeoutError at the
        deadline, while the work goes on for those who ask later.
        """
        if k < 1:
            raise DataError(f"k is {k}; ask for at least 1 word")
        bonus = self.model.unseen_bonus if candidates == "labels" else 0.0
        return self._names(candidates, deadline).nearest(vector, k, bonus)

    def _project(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        if not squares:
            return np.zeros((0, self.model.dimension), np.float32)
        with self._embedding:
            embedded = self._backbone.embed(np.stack(squares))
        return self.model.project_embedded(embedded)

    def _names(self, among: NameSet, deadline: Deadline = UNBOUNDED) -> Candidates:
        with self._loading:
            found = self._candidates.get(among)
            if found is None or (found.done() and found.exception()):
                found = self._finding.submit(find_candidates, among, self.model, self._vectors)
                self._candidates[among] = found
        while not found.done():
            deadline.check()
            wait([found], min(deadline.left(), _PATIENCE))
        return found.result()

    @property
    def _backbone(self) -> "Backbone":
        with self._loading:
            return self._loaded

    @cached_property
    def _loaded(self) -> "Backbone":
        from seqvis.vision.backbones import load_recorded

        uri = self.model.artifact.location.uri
        return load_recorded(self.model.backbone_config, uri).to(self._device)
