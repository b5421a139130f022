"""A trained model (DeViSE, ConSE or both) as an artifact, which projects features among words.

    model.safetensors  the space's centre, the head's weights (not for conse), and the vectors of
                       the classes (for conse and blend)
    labels.parquet     label, name, vector (of the space), seen, how: a row a label
    backbone.safetensors  the backbone's weights, if they were fine-tuned
    trained_on.npy     of a head: a number for the content of each picture it was trained on
    metrics.csv, curves.png   of training

`DeviseModel.open` opens one, and `write_model` writes one.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from seqvis import artifacts
from seqvis.artifacts import Artifact, ArtifactWriter
from seqvis.devise.head import Head, HeadSettings, conse_points
from seqvis.devise.space import KIND, LABELS, WEIGHTS, LabelSpace, WordSpaceModel, mismatch, unit
from seqvis.errors import ArtifactError, DataError
from seqvis.storage import Place
from seqvis.vision.backbones import Embedded
from seqvis.vision.feature_table import FeatureTable

BACKBONE = "backbone.safetensors"
BLOCK = 8192  # rows projected at once


class DeviseModel(WordSpaceModel):
    """Projects features into the space of words. Read-only; safe to share between threads."""

    def __init__(self, artifact: Artifact, labels: LabelSpace, tensors: Mapping[str, Tensor]):
        super().__init__(artifact, labels, tensors["centre"].numpy())
        self._head: Head | None = None
        self._classes: np.ndarray | None = None
        method = artifact.config["method"]
        if method in ("conse", "blend"):
            self._classes = tensors["classes"].numpy()
        if method != "conse":
            head = HeadSettings.model_validate(artifact.config["head"])
            self._head = Head(head, self.feature_dimension, self.dimension).eval()
            weights = {
                name.removeprefix("head."): tensor
                for name, tensor in tensors.items()
                if name.startswith("head.")
            }
            self._head.load_state_dict(weights)

    @classmethod
    def open(cls, uri: Place) -> Self:
        """Open what train_devise wrote. Raises ArtifactError if it is missing or altered."""
        artifact = artifacts.load(uri, KIND)
        tensors = load_tensors(artifact.file(WEIGHTS).read_bytes())
        try:
            return cls(artifact, LabelSpace.read(artifact), tensors)
        except (KeyError, RuntimeError) as error:
            raise mismatch(artifact, error) from error

    @property
    def feature_dimension(self) -> int:
        """Numbers of a picture's features."""
        return int(self.artifact.config["feature_dimension"])

    @property
    def backbone_config(self) -> dict[str, Any]:
        """The backbone whose features the model takes, as `backbones.load_recorded` reads it."""
        recorded = dict(self.artifact.config["backbone"])
        if recorded["weights"] == BACKBONE:  # fine-tuned: in the artifact, wherever that lies
            recorded["weights"] = self.artifact.file(BACKBONE).uri
        return recorded

    @property
    def needs_classes(self) -> bool:
        """Whether it takes the classifier's likeliest classes: ConSE, and the blend with a head."""
        return self._classes is not None

    def project(self, features: np.ndarray) -> np.ndarray:
        """Project features, float [n, feature_dimension], to unit rows [n, dimension]."""
        if self._classes is not None:
            raise DataError(
                f"{self.artifact.location.uri}: takes a classifier's classes as well "
                f"(--method {self.artifact.config['method']}); give it a picture or a table"
            )
        return self._project(features)

    def _project(self, features: np.ndarray) -> np.ndarray:
        assert self._head is not None
        if features.shape[1] != self.feature_dimension:
            raise ArtifactError(
                f"{self.artifact.location.uri}: takes {self.feature_dimension} numbers a picture, "
                f"not {features.shape[1]}; embed the images with its backbone, "
                f"{self.backbone_config.get('name')}"
            )
        parts = []
        with torch.inference_mode():
            for start in range(0, len(features), BLOCK):
                block = np.ascontiguousarray(features[start : start + BLOCK], dtype=np.float32)
                parts.append(self._head(torch.from_numpy(block)).numpy())
        return unit(np.concatenate(parts)) if parts else np.zeros((0, self.dimension), np.float32)

    def project_embedded(self, embedded: Embedded) -> np.ndarray:
        """Return what a backbone says about n pictures as points of the space, [n, dimension]."""
        if self._classes is None:
            return self._project(embedded.features)
        if embedded.top_classes is None or embedded.top_probabilities is None:
            raise DataError(
                f"{self.artifact.location.uri}: was trained with --method "
                f"{self.artifact.config['method']}, which needs a backbone that knows ImageNet's "
                f"classes; train a head with --method devise"
            )
        by_classes = conse_points(self._classes, embedded.top_classes, embedded.top_probabilities)
        if self._head is None:
            return by_classes
        return unit(by_classes + self._project(embedded.features))

    def project_table(
        self, table: FeatureTable, rows: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return stored pictures (all, or those of `rows`) as points of the space."""
        self.check_table(table)
        chosen = slice(None) if rows is None else np.asarray(rows, dtype=int)
        if self._classes is None:
            return self._project(table.features[chosen])
        features = np.zeros((0, table.dimension), np.float32)
        if self._head is not None:
            features = table.features[chosen]
        classes, shares = table.top_classes, table.top_probabilities
        return self.project_embedded(
            Embedded(
                features,
                None if classes is None else classes[chosen],
                None if shares is None else shares[chosen],
            )
        )

    def check_table(self, table: FeatureTable) -> None:
        """Raise ArtifactError if the table was not made by the backbone that the model takes."""
        made_by, needed = table.artifact.config["backbone"], self.backbone_config
        if not same_backbone(made_by, needed) or table.dimension != self.feature_dimension:
            raise ArtifactError(
                f"{table.artifact.location.uri}: was embedded by {_in_words(made_by)} "
                f"({table.dimension} numbers a picture), but {self.artifact.location.uri} takes "
                f"features of {_in_words(needed)} ({self.feature_dimension}); embed the images "
                f"with that"
            )


def same_backbone(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Tell whether two records are of one network with the same weights and input."""
    keys = ("name", "sha256", "image_size", "fit")
    return all(first.get(key) == second.get(key) for key in keys)


def _in_words(backbone: Mapping[str, Any]) -> str:
    return (
        f"{backbone.get('name')} at {backbone.get('image_size')} pixels, {backbone.get('fit')}, "
        f"weights {str(backbone.get('sha256'))[:8]}"
    )


def write_model(
    writer: ArtifactWriter, labels: LabelSpace, tensors: Mapping[str, Tensor], centre: np.ndarray
) -> None:
    """Write labels and weights (of a head as "head.…", or ConSE's "classes") into an artifact."""
    flat = pa.array(labels.vectors.reshape(-1))
    table = pa.table(
        {
            "label": labels.labels,
            "name": labels.names,
            "vector": pa.FixedSizeListArray.from_arrays(flat, labels.vectors.shape[1]),
            "seen": labels.seen,
            "how": labels.how,
        }
    )
    content = io.BytesIO()
    pq.write_table(table, content)
    writer.path(LABELS).write_bytes(content.getvalue())
    weights = {name: tensor.contiguous() for name, tensor in tensors.items()}
    weights["centre"] = torch.from_numpy(np.asarray(centre, dtype=np.float32))
    writer.write_tensors(WEIGHTS, weights)
