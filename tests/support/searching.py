"""A small world to search in: drawn pictures, a real backbone, a trained model, word vectors."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqvis.devise.model import DeviseModel
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.search.build import PictureItems, build_collection
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vision.backbones import Backbone, load_backbone
from seqvis.vision.feature_table import FeatureTable
from tests.support import pictures
from tests.support.pictures import word_vectors, write_features, write_vec_file

NAMES = {
    "n02084071": "dog",
    "n02121620": "cat",
    "n02858304": "boat",
    "n04490091": "truck",
    "n07739125": "apple",
    "n07753592": "banana",
}
UNSEEN = "n07753592"
COLOURS = ["red", "lime", "blue", "yellow", "white", "purple"]
EACH = 12


@dataclass(frozen=True)
class World:
    """Where its artifacts are, and the encoded pictures by path."""

    folder: Path
    pictures: dict[str, bytes]
    labels: dict[str, str]  # of each path

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def vectors(self) -> Path:
        return self.folder / "vectors"

    @property
    def collection(self) -> Path:
        return self.folder / "collection"

    def copy_collection(self, folder: Path) -> Path:
        """A collection that a test may change."""
        return shutil.copytree(self.collection, folder / "collection")


def make_world(folder: Path) -> World:
    """Pictures of six labels, told apart by colour and stripes; one label is kept from training."""
    make_vectors(folder)
    labels = [wnid for wnid in NAMES for _ in range(EACH)]
    contents = [draw(list(NAMES).index(label), number) for number, label in enumerate(labels)]
    backbone = load_backbone("efficientnet_lite0", image_size=64)
    embed_to(folder / "features", backbone, labels, contents)
    (folder / "unseen.txt").write_text(UNSEEN + "\n")
    train_small(folder, folder / "model", epochs=30)
    paths = [f"{number:06d}.jpg" for number in range(len(labels))]
    world = World(
        folder,
        dict(zip(paths, contents, strict=True)),
        dict(zip(paths, labels, strict=True)),
    )
    model, table = DeviseModel.open(str(world.model)), FeatureTable.open(str(world.features))
    build_collection(model, PictureItems(model, table), table, world.collection).close()
    return world


def make_vectors(folder: Path) -> None:
    """Word vectors of the names and of some words besides, in `folder`/vectors."""
    words = [*NAMES.values(), "engine", "sail", "fire", "mink", "Siamese"]
    vectors = word_vectors([*words, *(f"other{number}" for number in range(50))])
    file = write_vec_file(folder / "words.vec", vectors)
    build_store(open_source("vec", str(file)), str(folder / "vectors"), {})


def train_small(folder: Path, out: Path, epochs: int) -> None:
    settings = DeviseSettings(
        features=str(folder / "features"),
        vectors=str(folder / "vectors"),
        out=str(out),
        unseen=str(folder / "unseen.txt"),
        epochs=epochs,
        batch_size=16,
        head={"hidden": 256, "dropout": 0.2},  # type: ignore[arg-type]
        calibration={"folds": 0},  # type: ignore[arg-type]
        fit={"precision": "float32", "monitor": "loss"},  # type: ignore[arg-type]
    )
    train(settings, lambda event: None)


def embed_to(
    out: Path,
    backbone: Backbone,
    labels: Sequence[str],
    contents: Sequence[bytes],
    images: str = "nowhere",
) -> None:
    embedded = backbone.embed_files(contents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "BACKBONE", backbone.recorded)
        write_features(
            out,
            labels,
            embedded.features,
            embedded.top_classes,
            embedded.top_probabilities,
            images,
        )


def draw(kind: int, seed: int) -> bytes:
    """A PNG of 80 x 64 pixels: stripes in the kind's colour on noise."""
    noise = np.random.default_rng(seed).integers(0, 90, (64, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    for stripe in range(kind + 1):
        picture.paste(COLOURS[kind], (0, 4 + 10 * stripe, 80, 10 + 10 * stripe))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
