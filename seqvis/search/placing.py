"""Place text queries in the space of a collection: the half of a search engine that needs no torch.

`WordPlacer` turns the text of a query into a unit vector in the space of the model that the
collection was built with. The collection records the location and fingerprint of that model and of
the word vectors. Any other model is refused, because its results would be meaningless.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from seqvis.collection.shards import describe
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.devise.space import TrainedWords, open_vectors
from seqvis.errors import ArtifactError
from seqvis.search.queries import Query, parse_query, place_query
from seqvis.search.query_words import function_words_of
from seqvis.search.spelling import Spelling
from seqvis.vectors.store import WordVectors

Trained = TypeVar("Trained", bound=TrainedWords)


class Described(Protocol):
    """A collection, either opened or only described."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def dimension(self) -> int: ...


class WordPlacer:
    """Places text queries. Safe to share between threads; a query takes well under 1 ms."""

    def __init__(self, model: TrainedWords, vectors: WordVectors, uri: str | None = None):
        """`uri`: where the word vectors are now, if they were moved."""
        self.model = model
        self._vectors = vectors
        self._vectors_uri = uri or model.vectors_uri
        self._grammar = function_words_of(vectors)

    @classmethod
    def open(
        cls, collection: str | Path, model: str | None = None, vectors: str | None = None
    ) -> Self:
        """For a collection, sharded or not, with the model and word vectors that it records.

        `model` and `vectors` say where these are now, if they were moved. Raises ArtifactError if
        one is missing, or is not the one that the collection was built with.
        """
        trained = open_trained(TrainedWords, describe(collection), model)
        return cls(trained, open_vectors(trained, vectors), vectors)

    @property
    def dimension(self) -> int:
        return self.model.dimension

    def read(self, query: str) -> Query:
        """How a query is understood in the language of the word vectors; `str` shows it.

        Raises QueryError if it cannot be read.
        """
        if not isinstance(query, str):
            raise TypeError(f"a query is one str, not {type(query).__name__}: {query!r}")
        return parse_query(query, self._grammar)

    def place(self, query: str | Query, suggest: bool = True) -> np.ndarray:
        """A query's unit vector, float32 [dimension].

        Raises QueryError if it cannot be read or cancels to zero, UnknownWordError, with near
        spellings if it is to `suggest` them, for a word that has no vector.
        """
        read = query if isinstance(query, Query) else self.read(query)
        near = self.suggestions if suggest else lambda word: ()
        return place_query(read, self._vectors, self.model.place_words, near)

    def suggestions(self, word: str, deadline: Deadline = UNBOUNDED) -> tuple[str, ...]:
        """Known words of near spelling; a fraction of a second among millions.

        Raises SearchTimeoutError.
        """
        return self._spelling.near(word, deadline=deadline)

    @cached_property
    def _spelling(self) -> Spelling:
        # Loaded for the first misspelt word, because it takes 50 MB for 2.5 million words.
        return Spelling.open(self._vectors_uri)


def open_trained(kind: type[Trained], collection: Described, given: str | None = None) -> Trained:
    """The model that a collection was built with, at `given` if it was moved; `kind`: how much.

    `TrainedWords` is enough to place words, `DeviseModel` places pictures. Raises ArtifactError
    if it is missing or another one.
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
