"""Search a collection by words, by a picture or by a stored picture, and name pictures.

The engine works on a collection that build_index made and returns its `Match`es, or `Word`s for a
picture. It only combines three parts that can also live in different processes: the collection, the
`WordEncoder` and the `ImageEncoder`. PyTorch and the backbone are loaded for the first picture,
which takes seconds; words and stored pictures need neither.
"""

from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from seqvis.collection.collection import Collection
from seqvis.collection.filters import Where
from seqvis.collection.items import Match
from seqvis.devise.space import WordSpaceModel, open_vectors
from seqvis.errors import QueryError
from seqvis.search.pictures import ImageEncoder, Word
from seqvis.search.requests import (
    ImageQuery,
    LikeQuery,
    NameSet,
    SearchRequest,
    TextQuery,
    VectorQuery,
)
from seqvis.search.words import WordEncoder, load_model_for
from seqvis.vectors.store import WordVectors


class SearchEngine:
    """Answers queries over a collection. Safe to share between threads.

    Close it when done, or use it in a `with` block.
    """

    def __init__(self, collection: Collection, words: WordEncoder, vectors: WordVectors):
        self.collection = collection
        self.words = words
        self._vectors = vectors

    @classmethod
    def open(
        cls, collection: str | Path, model: str | None = None, vectors: str | None = None
    ) -> Self:
        """Open a collection (read only) with the model and the word vectors that it records.

        `model` and `vectors` say where these are now, if they were moved. Raises ArtifactError if
        one is missing, or is not the one that the collection was built with.
        """
        opened = Collection.open(collection, read_only=True)
        try:
            trained = load_model_for(WordSpaceModel, opened, model)
            store = open_vectors(trained, vectors)
            return cls(opened, WordEncoder(trained, store, vectors), store)
        except BaseException:
            opened.close()
            raise

    @cached_property
    def pictures(self) -> ImageEncoder:
        """The encoder of pictures. Raises ArtifactError if the model's weights cannot be used."""
        from seqvis.devise.model import DeviseModel  # loads torch

        where = self.words.model.artifact.location.uri
        return ImageEncoder(load_model_for(DeviseModel, self.collection, where), self._vectors)

    def close(self) -> None:
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(
        self, query: str, k: int = 10, min_score: float | None = None, where: Where | None = None
    ) -> list[Match]:
        """Find pictures near a signed sum of words (queries.py).

        Raises QueryError if it cannot be read or cancels to zero, and UnknownWordError, with near
        spellings, for a word that has no vector.
        """
        return self.search(SearchRequest(TextQuery(query), k, min_score, where))

    def image(
        self,
        content: bytes,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
    ) -> list[Match]:
        """Find pictures near an encoded one, given as the bytes of its file.

        Raises QueryError if it cannot be used.
        """
        return self.search(SearchRequest(ImageQuery(content), k, min_score, where))

    def like(
        self, name: str, k: int = 10, min_score: float | None = None, where: Where | None = None
    ) -> list[Match]:
        """Find pictures near the stored one of this id, without it. QueryError if it is unknown."""
        return self.search(SearchRequest(LikeQuery(name), k, min_score, where))

    def search(self, request: SearchRequest) -> list[Match]:
        """Return a request's matches, best first. Raises what the methods above raise."""
        query = request.query
        if isinstance(query, TextQuery):
            vector = self.words.encode(query.text)
        elif isinstance(query, VectorQuery):
            vector = query.vector
        else:
            vector = self._vector_of(query)
        nearest = request.at(vector)
        matches: list[Match] = self.collection.search(
            vector, nearest.k, nearest.where, nearest.min_score
        )
        return request.select(matches)

    def classify(
        self, picture: bytes | str, k: int = 10, candidates: NameSet = "classes"
    ) -> list[Word]:
        """Return the `k` words nearest to a picture, the bytes of its file or an id, best first.

        See `ImageEncoder.classify`. Raises QueryError if the picture cannot be used or is unknown.
        """
        query = LikeQuery(picture) if isinstance(picture, str) else ImageQuery(picture)
        return self.pictures.classify(self._vector_of(query), k, candidates)

    def _vector_of(self, query: ImageQuery | LikeQuery) -> np.ndarray:
        if isinstance(query, ImageQuery):
            return self.pictures.encode(query.content).vector
        item = self.collection.get(query.id)
        if item is None:
            raise QueryError(
                f"{query.id}: no picture in {self.collection.path} has this id; of a picture that "
                f"is not stored, give the bytes of its file"
            )
        return item.vector
