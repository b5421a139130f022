"""Search a collection by words, by a picture or by a stored picture, and name pictures.

The engine works on a collection that build_index made and returns `Matches`, or `Word`s for a
picture. It only combines three parts that can also live in different processes: the collection, the
`WordEncoder` and the `ImageEncoder`. PyTorch and the backbone are loaded for the first picture,
which takes seconds; words and stored pictures need neither.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqvis.collection.collection import Collection
from seqvis.collection.filters.where import Where
from seqvis.collection.items import Match
from seqvis.devise.space import WordSpaceModel, open_vectors
from seqvis.errors import QueryError
from seqvis.search.pictures import ImageEncoder, Picture, Word, encoded
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


class Matches(list[Match]):
    """What a search found, best first; a notebook shows it as a sheet of thumbnails."""

    def __init__(
        self, matches: Iterable[Match], title: str, thumbnail: Callable[[str], bytes | None]
    ):
        """`thumbnail` returns an item's picture by its id, when the sheet is shown."""
        super().__init__(matches)
        self.title = title
        self._thumbnail = thumbnail

    def captions(self) -> list[str]:
        """Return for each match its label's name, its file's name and the score, on lines each."""
        captions = []
        for match in self:
            name, file = str(match.metadata.get("name") or ""), match.id.rsplit("/", 1)[-1]
            lines = [name, file, f"{match.score:.3f}"]
            captions.append("\n".join(printable(line) for line in lines if line))
        return captions

    def _repr_html_(self) -> str:
        from seqvis.plots.notebook import picture_sheet

        pictures = (self._thumbnail(match.id) for match in self)
        return picture_sheet(self.title, zip(pictures, self.captions(), strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # elsewhere there are no thumbnails


def printable(text: str) -> str:
    """Return the text without control characters, which ids may contain and a terminal obeys."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


class SearchEngine:
    """Answers queries over a collection. Safe to share between threads.

    Close it when done, or use it in a `with` block. Of all searches, `k` is the number of matches
    at most, `min_score` the least cosine of one, from -1 to 1, and `where` a filter of metadata,
    such as `{"label": ["n02084071", "n02121620"]}`.
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
        """Let go of the collection's files; what was found can still be shown."""
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(
        self, query: str, k: int = 10, min_score: float | None = None, where: Where | None = None
    ) -> Matches:
        """Find pictures near a signed sum of words, such as "engine + boat" (queries.py).

        Raises QueryError if it cannot be read or cancels to zero, and UnknownWordError, with near
        spellings, for a word that has no vector.
        """
        return self.search(SearchRequest(TextQuery(query), k, min_score, where))

    def image(
        self,
        picture: Picture,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
    ) -> Matches:
        """Find pictures near another one.

        `picture`: a path or URI, the bytes of a file, a PIL image, or an array of uint8, [height,
        width] or [height, width, 3 or 4]. Raises TypeError for anything else, DataError if there
        is no such file, QueryError if it is no picture that can be used.
        """
        return self.search(SearchRequest(ImageQuery(encoded(picture)), k, min_score, where))

    def like(
        self, name: str, k: int = 10, min_score: float | None = None, where: Where | None = None
    ) -> Matches:
        """Find pictures near the stored one of this id, without it. QueryError if it is unknown."""
        return self.search(SearchRequest(LikeQuery(name), k, min_score, where))

    def search(self, request: SearchRequest) -> Matches:
        """Return a request's matches, best first. Raises what the methods above raise."""
        query, title = request.query, "a picture"
        if isinstance(query, TextQuery):
            vector, title = self.words.encode(query.text), query.text
        elif isinstance(query, VectorQuery):
            vector, title = query.vector, "a vector"
        else:
            vector = self._vector_of(query)
            title = query.id if isinstance(query, LikeQuery) else title
        nearest = request.at(vector)
        matches: list[Match] = self.collection.search(
            vector, nearest.k, nearest.where, nearest.min_score
        )
        return Matches(request.select(matches), title, self.collection.thumbnail)

    def classify(
        self, picture: Picture, k: int = 10, candidates: NameSet = "classes"
    ) -> list[Word]:
        """Return the `k` words nearest to a picture, best first.

        `picture`: as of `image`, except that text is the id of a stored one; give a path as a
        `Path`. For `candidates` see `ImageEncoder.classify`. Raises what `image` raises, and
        QueryError if no such picture is stored.
        """
        query = LikeQuery(picture) if isinstance(picture, str) else ImageQuery(encoded(picture))
        return self.pictures.classify(self._vector_of(query), k, candidates)

    def _vector_of(self, query: ImageQuery | LikeQuery) -> np.ndarray:
        if isinstance(query, ImageQuery):
            return self.pictures.encode(query.content).vector
        item = self.collection.get(query.id)
        if item is None:
            raise QueryError(
                f"{query.id}: no picture in {self.collection.path} has this id; of a picture that "
                f"is not stored, give the path as a Path, or the bytes of its file"
            )
        return item.vector
