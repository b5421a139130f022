"""Search requests: what to look for and how many matches to return, without importing torch.

`SearchEngine` runs a request in one process, the server's gateway over shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from seqvis.collection.filters.where import Where
from seqvis.collection.items import Match
from seqvis.errors import DataError

NameSet = Literal["labels", "classes", "wordnet"]
"""Names that a picture may get: the model's own labels, ImageNet's 1,000, or all of WordNet."""


@dataclass(frozen=True)
class TextQuery:
    """A signed sum of words (queries.py)."""

    text: str


@dataclass(frozen=True)
class ImageQuery:
    """An encoded picture: the bytes of its file."""

    content: bytes


@dataclass(frozen=True)
class LikeQuery:
    """A stored picture, to find pictures like it."""

    id: str


@dataclass(frozen=True, eq=False)
class VectorQuery:
    """A point among the words; every other query becomes one."""

    vector: np.ndarray


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a point among words, and what is stored and shown of it."""

    vector: np.ndarray  # float32 [dimension], of unit length
    width: int  # pixels, after turning
    height: int
    thumbnail: bytes  # JPEG


@dataclass(frozen=True)
class SearchRequest:
    """Ask for the `k` best matches whose score is at least `min_score` and that pass a filter."""

    query: TextQuery | ImageQuery | LikeQuery | VectorQuery
    k: int = 10
    min_score: float | None = None
    where: Where | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise DataError(f"k is {self.k}; ask for at least 1 match")

    def at(self, vector: np.ndarray) -> "SearchRequest":
        """Return the request for what is near `vector`, the point of this request's query.

        It asks for one more match than is wanted if a stored picture is sure to find itself.
        """
        neighbours = self.k + isinstance(self.query, LikeQuery)
        return replace(self, query=VectorQuery(vector), k=neighbours)

    def select(self, matches: Sequence[Match]) -> list[Match]:
        """Return the matches to show: the `k` best, without the stored picture itself."""
        own = self.query.id if isinstance(self.query, LikeQuery) else None
        return [match for match in matches if match.id != own][: self.k]
