"""Build a collection from a model and a features table: every picture as a point among words.

The features must come from the model's own backbone. Each item of the collection has the picture's
path as id, its projection as vector, `label`, `name`, `path`, `width`, `height` as metadata, and a
thumbnail. Features are read and projected in blocks, so memory does not grow with their number.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqvis.checks import check_several
from seqvis.collection.collection import Collection
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item
from seqvis.devise.labels import WordNet
from seqvis.devise.model import DeviseModel
from seqvis.errors import ArtifactError, DataError
from seqvis.storage import absolute
from seqvis.vision.backbones import Embedded
from seqvis.vision.feature_table import TOP_COLUMNS, FeatureTable

_BLOCK = 2048  # pictures read and projected at once
_COLUMNS = ("path", "label", "width", "height", "thumbnail")


class PictureItems:
    """Iterates over the pictures of a features table as collection items, in the table's order."""

    def __init__(self, model: DeviseModel, table: FeatureTable, columns: Sequence[str] = ()):
        """`columns`: further columns to keep as metadata; a column `name` replaces the label's.

        Raises ArtifactError if the features are of another backbone than the model's, or lack a
        column.
        """
        check_several(columns, "columns")
        self._model = model
        self._table = table
        self._metadata = list(dict.fromkeys(("label", "path", "width", "height", *columns)))
        self._names = dict(zip(model.space.labels, model.space.names, strict=True))
        self._wordnet = WordNet.load()
        self.left_out = 0  # pictures read that the model could not encode
        model.check_table(table)
        missing = [name for name in self._wanted() if name not in table.column_names]
        if missing:
            table.columns(missing)  # says which, and what there is

    def __iter__(self) -> Iterator[Item]:
        """Raise ArtifactError if a feature is not finite, DataError for a date out of range."""
        self.left_out = 0
        for begin in range(0, len(self._table), _BLOCK):
            rows = np.arange(begin, min(begin + _BLOCK, len(self._table)))
            block = self._table.take(rows, self._wanted())
            vectors = self._model.project_embedded(self._embedded(block))
            # ConSE cannot encode a picture if none of its likely classes has a vector.
            encoded = np.linalg.norm(vectors, axis=1) > 0
            self.left_out += int((~encoded).sum())
            metadata = self._rows(block)
            thumbnails = block["thumbnail"]
            for row in np.flatnonzero(encoded).tolist():
                stored = {"name": self.name(metadata[row]["label"])} | metadata[row]
                yield Item(stored["path"], vectors[row], stored, thumbnails[row].as_py())

    def name(self, label: str) -> str:
        """Return the label as people read it: for a wnid the synset's first name."""
        if label in self._names:
            return self._names[label]
        return self._wordnet.name(label) if label in self._wordnet else label

    def _wanted(self) -> list[str]:
        tops = TOP_COLUMNS if self._model.needs_classes else ()
        return list(dict.fromkeys((*_COLUMNS, *self._metadata, "features", *tops)))

    def _rows(self, block: pa.Table) -> list[dict[str, Any]]:
        columns = []
        for name in self._metadata:
            column = block[name]
            if pa.types.is_float32(column.type):  # 0.1, not the nearest float64 0.10000000149
                column = column.cast(pa.string()).cast(pa.float64())
            try:
                columns.append([_with_null(value) for value in column.to_pylist()])
            except (ArithmeticError, LookupError, ValueError) as error:
                raise DataError(
                    f"{self._table.artifact.location.uri}: column {name} has a value of the type "
                    f"{column.type} that is out of range ({error}); leave it out of --columns"
                ) from error
        return [dict(zip(self._metadata, row, strict=True)) for row in zip(*columns, strict=True)]

    def _embedded(self, block: pa.Table) -> Embedded:
        features = _matrix(block["features"], self._table.dimension).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise ArtifactError(
                f"{self._table.artifact.location.uri}: the features of "
                f"{block['path'][int(bad[0])]} are not finite; embed the images anew"
            )
        if not self._model.needs_classes:
            return Embedded(features, None, None)
        classes, shares = (_matrix(block[name], -1) for name in TOP_COLUMNS)
        return Embedded(features, classes.astype(np.int32), shares.astype(np.float32))


def build_collection(
    model: DeviseModel,
    items: PictureItems,
    table: FeatureTable,
    out: str | Path,
    backend: Backend = "nmslib",
    settings: IndexSettings | None = None,
) -> Collection:
    """Write the collection, which appears whole at the end, and open it.

    Its config records location and fingerprint of the model and of the word vectors. A collection
    that is at `out` already is replaced at that moment. Raises SeqvisError for anything a user can
    mend.
    """
    config: dict[str, Any] = {
        "model": absolute(model.artifact.location.uri),
        "model_fingerprint": model.artifact.fingerprint(),
        "vectors": absolute(model.vectors_uri),
        "vectors_fingerprint": model.vectors_fingerprint,
        "features": absolute(table.artifact.location.uri),
        "features_fingerprint": table.artifact.fingerprint(),
    }
    return Collection.build(out, model.dimension, items, backend, config, settings)


def _with_null(value: Any) -> Any:
    """Return a table's value as JSON can have it: NaN becomes null and infinity the text inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: _with_null(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_null(inner) for inner in value]
    return value


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(column), width))
