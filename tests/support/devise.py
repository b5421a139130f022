"""Small trainings of DeViSE for tests: heads on features of 20 labels, pictures to fine-tune on."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import shufflenet_v2_x0_5

from seqvis.devise.settings import DeviseSettings
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vision.backbones import Backbone, load_backbone
from tests.support.pictures import (
    FEATURES,
    picture_features,
    word_vectors,
    write_features,
    write_vec_file,
)
from tests.support.searching import draw, embed_to, make_vectors

# Nouns with one reading here: the first name of a synset each.
NOUNS = {
    "n02084071": "dog", "n02121620": "cat", "n02374451": "horse", "n01503061": "bird",
    "n02512053": "fish", "n04490091": "truck", "n02958343": "car", "n02858304": "boat",
    "n04468005": "train", "n02691156": "airplane", "n02834778": "bicycle",
    "n03790512": "motorcycle",
    "n07739125": "apple", "n07753592": "banana", "n07747607": "orange", "n07679356": "bread",
    "n07873807": "pizza", "n04379243": "table", "n03001627": "chair", "n02818832": "bed",
}  # fmt: skip
UNSEEN = list(NOUNS)[3::5]
EACH = 24
DRAWN = ("n02084071", "n02121620", "n02858304")  # of the pictures to fine-tune on
DRAWN_EACH = 10


def make_data(folder: Path, each: int = EACH) -> Path:
    """Vectors, features of 20 labels with so many pictures each, and the list of unseen labels."""
    words = [*NOUNS.values(), *(f"other{number}" for number in range(100))]
    vectors = word_vectors(words)
    file = write_vec_file(folder / "words.vec", vectors)
    build_store(open_source("vec", str(file)), str(folder / "vectors"), {})
    by_label = {wnid: vectors[name] for wnid, name in NOUNS.items()}
    labels = [wnid for wnid in NOUNS for _ in range(each)]
    write_features(folder / "features", labels, picture_features(labels, by_label))
    (folder / "unseen.txt").write_text("# kept from training\n" + "\n".join(UNSEEN) + "\n")
    return folder


def train_flags(data: Path, out: Path, *more: object) -> list[object]:
    given = ["--features", data / "features", "--vectors", data / "vectors", "--out", out]
    small = ["--unseen", data / "unseen.txt", "--batch-size", 64, "--head.hidden", 0]
    return [*given, *small, *more]


def settings_of(data: Path, folder: Path, **more: object) -> DeviseSettings:
    places = {"features": folder / "features", "vectors": data / "vectors", "out": folder / "out"}
    return DeviseSettings.model_validate({name: str(p) for name, p in places.items()} | more)


def labelled(folder: Path, by_path: dict[str, str]) -> None:
    """Features that show nothing, of pictures with these paths and labels."""
    order = sorted(by_path)
    noise = np.random.default_rng(0).normal(size=(len(order), FEATURES)).astype("f4")
    write_features(folder / "features", [by_path[path] for path in order], noise, paths=order)


def make_drawings(folder: Path, backbone: Backbone) -> Path:
    """A flat folder of thirty pictures, their features, and word vectors."""
    make_vectors(folder)
    labels = [label for label in DRAWN for _ in range(DRAWN_EACH)]
    contents = [draw(DRAWN.index(label), number) for number, label in enumerate(labels)]
    (folder / "images").mkdir()
    for number, content in enumerate(contents):
        (folder / "images" / f"{number:06d}.jpg").write_bytes(content)
    embed_to(folder / "features", backbone, labels, contents, str(folder / "images"))
    return folder


def tuning_flags(data: Path, out: Path, *more: object) -> list[object]:
    given = ["--features", data / "features", "--vectors", data / "vectors", "--out", out]
    sizes = ["--batch-size", 16, "--epochs", 2, "--head.hidden", 0]
    return [*given, *sizes, "--finetune.epochs", 2, "--finetune.batch-size", 8, *more]


def backbone_without_dropout(folder: Path) -> Backbone:
    """A small network that knows nothing; any number of workers fine-tune it alike."""
    torch.manual_seed(0)
    network = shufflenet_v2_x0_5()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    torch.save(network.state_dict(), folder / "weights.pth")
    return load_backbone("shufflenet_v2_x0_5", str(folder / "weights.pth"), image_size=48)


def tuning_settings(data: Path, out: str, epochs: int) -> DeviseSettings:
    """Settings of three steps an epoch, with a checkpoint after each."""
    return DeviseSettings.model_validate(
        {
            **{name: str(data / name) for name in ("features", "vectors")},
            "out": str(data / out),
            "epochs": 1,
            "batch_size": 16,
            "head": {"hidden": 0, "dropout": 0.0},
            "fit": {"precision": "float32", "checkpoint_minutes": 1e-9, "monitor": "loss"},
            "finetune": {"epochs": epochs, "batch_size": 9},
        }
    )


def same_head(data: Path, out: str, other: str) -> None:
    """Let the run of `out` begin with the trained head of another: a head's batch norm differs."""
    head = Path("checkpoints") / "head"
    shutil.copytree(data / f"{other}.run" / head, data / f"{out}.run" / head)
