"""Which pictures a model was trained on, recognised by the content of their files.

A model keeps a number for each file, so the same pictures are known again in another folder, under
other names, and among others. A picture that was resized or saved anew is another file.
"""

import io

import numpy as np

from seqvis.artifacts import ArtifactWriter
from seqvis.devise.data import held_out_by_path
from seqvis.devise.model import DeviseModel
from seqvis.vision.feature_table import FeatureTable

TRAINED_ON = "trained_on.npy"


def write_trained_on(writer: ArtifactWriter, table: FeatureTable, rows: np.ndarray) -> None:
    """Record the pictures of these rows in a model's artifact: 8 bytes each."""
    content = io.BytesIO()
    np.save(content, np.unique(_content_numbers(table)[rows]))
    writer.path(TRAINED_ON).write_bytes(content.getvalue())


def trained_on(model: DeviseModel, table: FeatureTable) -> np.ndarray | None:
    """Whether the model was trained on each picture, bool [pictures]; None if it does not say.

    Models of before this was recorded know only the very table that they were trained on.
    """
    artifact = model.artifact
    if TRAINED_ON in artifact.files:
        numbers = np.load(io.BytesIO(artifact.file(TRAINED_ON).read_bytes()), allow_pickle=False)
        return np.isin(_content_numbers(table), numbers)
    if model.needs_classes:
        return np.zeros(len(table), dtype=bool)
    if artifact.config["features_fingerprint"] != table.artifact.fingerprint():
        return None
    space = model.space
    seen = {label for label, is_seen in zip(space.labels, space.seen, strict=True) if is_seen}
    used = np.array([label in seen for label in table.labels], dtype=bool)
    if artifact.config["validation_features"] is not None:
        return used
    return used & ~held_out_by_path(table.paths, float(artifact.config["validation_share"]))


def _content_numbers(table: FeatureTable) -> np.ndarray:
    hashes = table.columns(["content_hash"])["content_hash"].to_pylist()
    return np.frombuffer(b"".join(one[:8] for one in hashes), dtype="<u8")
