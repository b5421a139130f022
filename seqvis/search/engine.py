"""Search by words, by a picture, by a stored picture; and a picture named by its nearest words.

In: a collection that build_index made. Out: `Match`es of the collection, or `Word`s. The model and
the word vectors are those that the collection records, by place and fingerprint; a model that is
not the one that projected the pictures would find nonsense, so it is refused.

What would surprise a reader: the backbone and WordNet's vectors are loaded when a query first
needs them (seconds), so the first picture is slower than the next. Every method may be called
from several threads; pictures are embedded one at a time.
"""

import threading
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from seqvis.devise.evaluate import open_vectors
from seqvis.devise.model import DeviseModel
from seqvis.errors import ArtifactError, DataError, QueryError
from seqvis.search.candidates import Candidates, CandidateSet, Word, find_candidates
from seqvis.search.collection import Collection
from seqvis.search.filters import Where
from seqvis.search.items import Item, Match
from seqvis.search.queries import parse_query, place_query
from seqvis.search.spelling import Spelling
from seqvis.text.wordvectors import WordVectors
from seqvis.vision.backbones import Backbone, load_recorded
from seqvis.vision.images import BadImage


class SearchEngine:
    """Queries of a collection. Safe to share between threads; close it, or use it in a `with`."""

    def __init__(self, collection: Collection, model: DeviseModel, vectors: WordVectors, uri: str):
        """`uri`: where the word vectors are; their words are read from there to be suggested."""
        self.collection = collection
        self.model = model
        self.vectors = vectors
        self._vectors_uri = uri
        self._candidates: dict[CandidateSet, Candidates] = {}
        self._loading, self._embedding = threading.RLock(), threading.Lock()

    @classmethod
    def open(
        cls, collection: str | Path, model: str | None = None, vectors: str | None = None
    ) -> Self:
        """Opens a collection (read only) with the model and the word vectors that it records.

        `model` and `vectors` say where these are now, if they were moved. Raises ArtifactError if
        one is missing, or is not the one that the collection was built with.
        """
        opened = Collection.open(collection, read_only=True)
        try:
            trained = open_model(opened, model)
            words = open_vectors(trained, vectors)
            return cls(opened, trained, words, vectors or trained.vectors_uri)
        except BaseException:
            opened.close()
            raise

    def close(self) -> None:
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(
        self,
        query: str,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
    ) -> list[Match]:
        """Pictures near a signed sum of words (queries.py).

        Raises QueryError if it cannot be read or cancels to zero, UnknownWordError, with near
        spellings, for a word that has no vector.
        """
        return self._search(self.place_text(query), k, min_score, where)

    def image(
        self,
        content: bytes,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
    ) -> list[Match]:
        """Pictures near an encoded picture. Raises QueryError if it is none that can be used."""
        return self._search(self.place_image(content), k, min_score, where)

    def like(
        self,
        name: str,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
    ) -> list[Match]:
        """Pictures near the stored one of this id, itself left out. QueryError if it is unknown."""
        # One more is asked for, so that k are left without the picture itself.
        found = self._search(self._item(name).vector, max(k, 0) + 1, min_score, where)
        if k < 1:
            raise DataError(f"k is {k}; ask for at least 1 match")
        return [match for match in found if match.id != name][:k]

    def classify(
        self, picture: bytes | str, k: int = 10, candidates: CandidateSet = "classes"
    ) -> list[Word]:
        """The `k` words nearest to an encoded picture or to the stored one of an id, best first.

        `candidates`: "labels" (the model's own), "classes" (ImageNet's 1,000), "wordnet" (all nouns
        with vectors). Among the model's own, unseen labels have its calibrated bonus in the
        ranking; among thousands of other nouns it would drown the seen ones. Searches of the
        collection never have one: all candidates there are pictures.
        """
        if k < 1:
            raise DataError(f"k is {k}; ask for at least 1 word")
        if isinstance(picture, str):
            point = self._item(picture).vector
        else:
            point = self.place_image(picture)
        bonus = self.model.unseen_bonus if candidates == "labels" else 0.0
        return self._names(candidates).nearest(point, k, bonus)

    def place_text(self, query: str) -> np.ndarray:
        """A text query's unit vector, float32 [dimension]."""
        parsed = parse_query(query)
        return place_query(
            parsed, self.vectors, self.model.place_words, lambda word: self._spelling.near(word)
        )

    def place_image(self, content: bytes) -> np.ndarray:
        """An encoded picture's unit vector, float32 [dimension]."""
        try:
            with self._embedding:
                embedded = self._backbone.embed_files([content])
        except BadImage as error:
            raise QueryError(
                f"the query's picture cannot be used: {error.reason}; give a JPEG, PNG or another "
                f"usual format"
            ) from error
        point = self.model.project_embedded(embedded)[0]
        if not point.any():
            raise QueryError(
                "the query's picture shows nothing that the model knows: none of its likely "
                "classes has a word vector"
            )
        return point

    def _search(
        self, point: np.ndarray, k: int, min_score: float | None, where: Where | None
    ) -> list[Match]:
        found: list[Match] = self.collection.search(point, k, where, min_score)
        return found

    def _item(self, name: str) -> Item:
        item = self.collection.get(name)
        if item is None:
            raise QueryError(f"{name}: no picture in {self.collection.path} has this id")
        return item

    def _names(self, among: CandidateSet) -> Candidates:
        with self._loading:
            if among not in self._candidates:
                self._candidates[among] = find_candidates(among, self.model, self.vectors)
            return self._candidates[among]

    @cached_property
    def _backbone(self) -> Backbone:
        """Used and first loaded under the lock `_embedding`."""
        return load_recorded(self.model.backbone_config, self.model.artifact.location.uri)

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling.open(self._vectors_uri)


def open_model(collection: Collection, given: str | None = None) -> DeviseModel:
    """The model that a collection was built with, at `given` if it was moved.

    Raises ArtifactError if it is missing or another one.
    """
    model = DeviseModel.open(given) if given else _recorded_model(collection)
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


def _recorded_model(collection: Collection) -> DeviseModel:
    recorded = collection.config.get("model")
    if not isinstance(recorded, str):
        raise ArtifactError(f"{collection.path}: does not say which model made it; give --model")
    try:
        return DeviseModel.open(recorded)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error} ({collection.path} records it; if it was moved, give --model)"
        ) from error
