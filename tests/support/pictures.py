"""Feature tables and word vectors made by tests: pictures whose features say what they show."""

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seqvis import artifacts
from seqvis.vision.feature_table import KIND
from seqvis.vision.listing import WHERE, Listing, read_picture

DIMENSION = 12  # of word vectors
FEATURES = 24
BACKBONE = {
    "name": "efficientnet_lite0",
    "weights": "default",
    "sha256": "0" * 64,
    "image_size": 64,
    "fit": "crop",
}


def encoded(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    """A picture of large coloured patches, 70 x 60."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(coarse).resize((70, 60), Image.Resampling.BICUBIC)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar archive of these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def labels(listing: Listing) -> dict[str, str]:
    """The label of each listed picture, by path."""
    return dict(zip(*(listing.table[name].to_pylist() for name in ("path", "label")), strict=True))


def contents(listing: Listing) -> dict[str, bytes]:
    """The bytes of each listed picture, by path, in the order of the listing."""
    rows = listing.table.select(WHERE).to_pylist()
    read = [read_picture(listing.filesystem, **row) for row in rows]
    return dict(zip(listing.table["path"].to_pylist(), read, strict=True))


def word_vectors(words: Sequence[str], seed: int = 0) -> dict[str, np.ndarray]:
    """A random vector for each word, around a direction that all of them share."""
    drawn = np.random.default_rng(seed).normal(size=(len(words), DIMENSION))
    return dict(zip(words, (drawn + 0.5).astype(np.float32), strict=True))


def write_vec_file(path: Path, vectors: Mapping[str, np.ndarray]) -> Path:
    """The vectors in the form that `build_vectors --format vec` reads."""
    lines = [f"{len(vectors)} {DIMENSION}"]
    lines += [f"{word} {' '.join(f'{x:.6f}' for x in row)}" for word, row in vectors.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def picture_features(
    labels: Sequence[str], vectors: Mapping[str, np.ndarray], noise: float = 0.3, seed: int = 1
) -> np.ndarray:
    """Features that a linear map takes back to the label's vector, but for the noise."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(DIMENSION, FEATURES)) / np.sqrt(DIMENSION)
    rows = np.stack([vectors[label] / np.linalg.norm(vectors[label]) for label in labels])
    return (rows @ mixing + noise * generator.normal(size=(len(rows), FEATURES)) / 5).astype("f4")


def write_features(
    out: Path,
    labels: Sequence[str],
    features: np.ndarray,
    top_classes: np.ndarray | None = None,
    top_probabilities: np.ndarray | None = None,
    images: str = "nowhere",
    paths: Sequence[str] | None = None,
) -> Path:
    """A features artifact as `embed_images` writes it, one part, pictures in the given order."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    count = len(labels)
    rows = features.astype(np.float16)
    columns: dict[str, object] = {
        "path": list(paths or (f"{number:06d}.jpg" for number in range(count))),
        "label": list(labels),
        "width": [8] * count,
        "height": [8] * count,
        "size": [1] * count,
        "modified": [1] * count,
        "content_hash": [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows],
        "features": pa.FixedSizeListArray.from_arrays(
            pa.array(rows.reshape(-1)), features.shape[1]
        ),
        "thumbnail": [stream.getvalue()] * count,
    }
    if top_classes is not None and top_probabilities is not None:
        columns["top_classes"] = pa.FixedSizeListArray.from_arrays(
            pa.array(top_classes.astype(np.int32).reshape(-1)), top_classes.shape[1]
        )
        columns["top_probabilities"] = pa.FixedSizeListArray.from_arrays(
            pa.array(top_probabilities.astype(np.float32).reshape(-1)), top_probabilities.shape[1]
        )
    config = {
        "images": images,
        "label_from": "folder",
        "backbone": BACKBONE,
        "dimension": features.shape[1],
    }
    with artifacts.create(str(out), KIND, config) as writer:
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content)
        writer.path("parts/part-00000.parquet").write_bytes(content.getvalue())
        writer.metrics["images"] = count
    return out
