"""Encode pictures as points of a collection's space, and name them.

`ImageEncoder` turns encoded pictures into `EncodedImage`s, and finds the `Word`s near a vector
among `Candidates`: a model's labels, ImageNet's classes, or all of WordNet. It loads torch, Pillow,
the backbone and WordNet's vectors on first use, which takes seconds; `warm_up` loads them earlier.
"""

import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, get_args

import numpy as np

from seqvis.checks import check_several
from seqvis.collection.shards import describe
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.devise.labels import WordNet, imagenet_classes, label_vectors
from seqvis.devise.space import WordSpaceModel, open_vectors
from seqvis.errors import BadPictureError, DataError
from seqvis.search.requests import EncodedImage, NameSet
from seqvis.search.words import load_model_for
from seqvis.storage import locate
from seqvis.vectors.store import WordVectors

if TYPE_CHECKING:  # these load torch, or Pillow
    import PIL.Image

    from seqvis.devise.model import DeviseModel
    from seqvis.vision.backbones import Backbone

_CHANNELS = ((), (3,), (4,))
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
_PATIENCE = 0.1  # seconds between looks at whether anybody still waits
NOT_KNOWN = "nothing that the model knows"
_NOT_KNOWN_TEXT = (
    "the query's picture shows nothing that the model knows: none of its likely classes has a "
    "word vector"
)


Picture: TypeAlias = "bytes | str | os.PathLike[str] | PIL.Image.Image | np.ndarray"
"""The bytes of a picture's file, its path or URI, a PIL image, or an array of uint8."""


def encoded(picture: Any) -> bytes:
    """Return a `Picture` as the bytes of a file.

    Raises TypeError if it is none, DataError if there is no such file.
    """
    from PIL import Image, ImageOps

    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return locate(picture).read_bytes()
    if isinstance(picture, np.ndarray):
        channels = picture.shape[2:]
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or channels not in _CHANNELS:
            raise TypeError(
                f"an array of {picture.dtype} {list(picture.shape)} is no picture; give one of "
                f"uint8, from 0 to 255, [height, width] or [height, width, 3 or 4]"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image) or picture.mode == "F":
        raise TypeError(
            f"a picture is given as a path, the bytes of its file, a PIL image or an array, not "
            f"as {type(picture).__name__}: {picture!r:.200}"
        )
    upright = ImageOps.exif_transpose(picture)
    stream = io.BytesIO()
    kept = upright if upright.mode in _PNG_MODES else upright.convert("RGB")
    kept.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@dataclass(frozen=True)
class Word:
    """A name near a picture; `score` is the cosine, without any bonus."""

    name: str
    labels: tuple[str, ...]  # wnids, or names of a model without synsets
    score: float
    seen: bool  # whether pictures with this label were in the training


@dataclass(frozen=True)
class Candidates:
    """Names, the labels that share each name, and unit vectors [names, dimension]."""

    names: list[str]
    labels: list[tuple[str, ...]]
    vectors: np.ndarray
    seen: np.ndarray  # bool [names]

    @classmethod
    def of(
        cls, names: Sequence[str], labels: Sequence[str], vectors: np.ndarray, seen: np.ndarray
    ) -> Self:
        """Merge labels of equal name and vector; labels without a vector (zeros) are left out."""
        # WordNet's three synsets called `mink` share one word vector and would always be found
        # together, so they become one candidate with three labels.
        groups: dict[tuple[str, bytes], list[int]] = {}
        for row in np.flatnonzero(vectors.any(axis=1)).tolist():
            groups.setdefault((names[row], vectors[row].tobytes()), []).append(row)
        members = list(groups.values())
        return cls(
            [names[rows[0]] for rows in members],
            [tuple(labels[row] for row in rows) for rows in members],
            vectors[[rows[0] for rows in members]],
            np.array([bool(seen[rows].any()) for rows in members], dtype=bool),
        )

    def nearest(self, point: np.ndarray, k: int, unseen_bonus: float) -> list[Word]:
        """Return the `k` names nearest to a unit vector, best first.

        Training pulls pictures towards labels that were seen. Where seen and unseen names compete
        the bonus is added to the cosines of the unseen for the ranking (calibrated stacking; Chao
        et al. 2016, arXiv 1605.04253); among only one kind it would change nothing.
        """
        cosines = self.vectors @ point
        order = np.argsort(-(cosines + unseen_bonus * ~self.seen), kind="stable")[:k].tolist()
        return [
            Word(self.names[row], self.labels[row], float(cosines[row]), bool(self.seen[row]))
            for row in order
        ]


def find_candidates(which: NameSet, model: WordSpaceModel, vectors: WordVectors) -> Candidates:
    """Return the names of a set: the model's labels, ImageNet's 1,000 classes, or all of WordNet.

    Synsets are looked up in the word vectors as labels are in training; those without a vector
    are left out. WordNet's 82,115 take some seconds: keep the result.
    """
    if which not in get_args(NameSet):
        known = ", ".join(get_args(NameSet))
        raise DataError(f"{which!r}: is no set of candidates; there are {known}")
    space = model.space
    if which == "labels":
        return Candidates.of(space.names, space.labels, space.vectors, space.seen)
    wordnet = WordNet.load()
    wnids = wordnet.wnids if which == "wordnet" else [wnid for wnid, _ in imagenet_classes()]
    nouns = label_vectors(wnids, vectors, wordnet)
    trained = {label for label, seen in zip(space.labels, space.seen, strict=True) if seen}
    seen = np.array([wnid in trained for wnid in wnids], dtype=bool)
    return Candidates.of(
        nouns.names, nouns.labels, model.word_space.project_labels(nouns, vectors), seen
    )


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

    def warm_up(
        self, candidates: Sequence[NameSet] = ("labels", "classes"), together: int = 1
    ) -> None:
        """Load the backbone and these candidates now, so that no query waits for them.

        Runs the backbone once for each number of pictures up to `together`, because a processor
        prepares kernels and memory for each. Raises ArtifactError if its weights are missing or
        have changed.
        """
        check_several(candidates, "sets of candidates")
        size = self._backbone.image_size
        for count in range(1, together + 1):
            self._project([np.zeros((size, size, 3), np.uint8)] * count)
        for among in candidates:
            self._names(among)

    def encode(self, content: bytes) -> EncodedImage:
        """Encode the picture in a file's bytes. Raises BadPictureError if it cannot be used."""
        image = self.encode_many([content])[0]
        if isinstance(image, BadPictureError):
            raise image
        return image

    def encode_many(self, contents: Sequence[bytes]) -> list[EncodedImage | BadPictureError]:
        """Encode several pictures in one run of the network; return an error for a bad one.

        Up to the rounding of float32 a picture's vector does not depend on the others. Raises
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
        collection have no bonus: all candidates there are pictures.

        The first request for all nouns takes some seconds. It raises SearchTimeoutError at its
        deadline, while the work goes on for later ones.
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
            candidates = self._candidates.get(among)
            if candidates is None or (candidates.done() and candidates.exception()):
                candidates = self._finding.submit(find_candidates, among, self.model, self._vectors)
                self._candidates[among] = candidates
        while not candidates.done():
            deadline.check()
            wait([candidates], min(deadline.left(), _PATIENCE))
        return candidates.result()

    @property
    def _backbone(self) -> "Backbone":
        with self._loading:
            return self._loaded

    @cached_property
    def _loaded(self) -> "Backbone":
        from seqvis.vision.backbones import load_recorded

        uri = self.model.artifact.location.uri
        return load_recorded(self.model.backbone_config, uri).to(self._device)
