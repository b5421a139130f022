"""Turn pictures, wherever they are, into a table of features, on Ray Data.

The result is the features artifact (`seqvis.vision.feature_table`). The stages are:

    list files -> read, decode, cut to size (CPU tasks) -> backbone (actors on GPUs or CPUs)
               -> pieces in OUT.run
    pieces, and what an earlier run at the same place knows -> Parquet parts

Pictures stream through in the order of their paths, a few hundred at a time; only the list of files
is held whole, at about 100 bytes each. A second run embeds only new and changed files, tries
rejected ones again, and gives the same result as one run over everything. The same holds for a run
after one that was interrupted. Another backbone, size or fit embeds everything anew.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from seqvis import artifacts
from seqvis.cluster import Progress, Session, amount, can_grow, ignore_progress, quiet_ray_data
from seqvis.config import Settings
from seqvis.errors import ArtifactError, ConfigError
from seqvis.process import keep_freed_memory
from seqvis.ray_internals import actors_by_value
from seqvis.storage import HUGGING_FACE, Location, absolute, locate
from seqvis.vision.backbones import Backbone, load_backbone
from seqvis.vision.feature_table import KIND, FeatureTable, Pieces
from seqvis.vision.feature_writer import (
    EMBEDDED,
    NOT_FINITE,
    DecodePictures,
    Known,
    keep_results,
    result_schema,
    write_features,
)
from seqvis.vision.images import MAX_PIXELS, Fit
from seqvis.vision.listing import WHERE, LabelFrom, Listing, list_images, list_table

if TYPE_CHECKING:
    import pandas as pd

FILES_PER_TASK = 64
_STEPS = 10  # of progress
_PASSED_ON = ("format", "remedy", "width", "height", "content_hash", "thumbnail")
_FILES_WORTH_A_TASK = 16  # decoding fewer takes less time than starting another process for it


class EmbedSettings(Settings):
    """Which images become features, and by which network."""

    images: str
    """Folder of images (DIR/<label>/file, DIR/train/<label>/..., or flat), of webdataset tars, a
    tar, a Hugging Face dataset (a folder of save_to_disk, or hf://NAME), or a CSV or Parquet table
    with a column uri and perhaps label and others."""
    out: str
    """Directory or URI for the features; what is unchanged since the last run is kept."""
    backbone: str = "resnet50"
    """efficientnet_lite0, efficientnet_lite2, or a classifier of torchvision by its name."""
    weights: str = "default"
    """default, a name of torchvision's weights, or the file of a state dict."""
    image_size: int = Field(224, ge=1)
    """Side of the square that the network sees, in pixels."""
    fit: Fit = "crop"
    """How pictures become square: crop (the middle), stretch, or pad (with white)."""
    split: str = ""
    """Of a Hugging Face dataset: train, test or another; all of them if it is not given."""
    label_from: LabelFrom = "folder"
    """folder (the innermost one's name, or a table such as labels.csv; a sample's or a row's own
    label), name (n01440764_x.JPEG has label n01440764), or none."""
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    """Pictures with more pixels are set aside; JPEGs may have four times as many."""
    batch_size: int = Field(64, ge=1)
    """Pictures that the network embeds at once."""
    num_workers: int = Field(0, ge=0)
    """Processes that run the network; 0: one for each GPU, or for each processor, and no more than
    have two batches each."""
    use_gpu: bool = False
    """One GPU for each worker."""


class EmbedPictures:
    """Turns pixels into features in an actor that keeps the backbone on its device."""

    def __init__(self, backbone: Any, use_gpu: bool, threads: int):
        import ray
        from ray import cloudpickle

        torch.set_num_threads(threads)
        keep_freed_memory()
        loaded: Backbone = ray.get(cloudpickle.loads(backbone))
        self._backbone = loaded.to("cuda" if use_gpu else "cpu")

    def __call__(self, table: pa.Table) -> pa.Table:
        backbone, size = self._backbone, self._backbone.image_size
        status = np.array(table["status"].to_pylist(), dtype=object)
        good = np.flatnonzero(status == EMBEDDED)
        pixels = table["pixels"].take(pa.array(good)).to_pylist()
        pictures = np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, size, size, 3)
        embedded = backbone.embed(pictures)
        with np.errstate(over="ignore"):
            features = embedded.features.astype(np.float16)
        status[good[~np.isfinite(features).all(1)]] = NOT_FINITE
        place = np.full(len(status), -1)
        place[good] = np.arange(len(good))
        take = pa.array(place, mask=place < 0)
        columns = {"status": pa.array(status, pa.string())}
        columns |= {n: table[n] for n in _PASSED_ON}
        columns["features"] = _lists(features, pa.float16()).take(take)
        if embedded.top_classes is not None and embedded.top_probabilities is not None:
            classes = embedded.top_classes.astype(np.int16)
            columns["top_classes"] = _lists(classes, pa.int16()).take(take)
            probabilities = embedded.top_probabilities
            columns["top_probabilities"] = _lists(probabilities, pa.float32()).take(take)
        return pa.table(columns)


def embed_images(
    settings: EmbedSettings,
    progress: Progress = ignore_progress,
    session: Session = nullcontext,
    table: "pa.Table | pd.DataFrame | None" = None,
) -> dict[str, Any]:
    """Make the features at `settings.out` and return what became of the files.

    A `table` names the pictures by its column `uri`, and may have `label` and further columns; then
    `settings.images` is the folder at which relative URIs start.
    `images_per_second` is that of the embedded ones, with the seconds in which workers start.
    Needs an initialised Ray, or a `session` that starts one. Raises DataError for images or weights
    that cannot be used, ConfigError for a backbone or size that does not exist, StorageError if
    `out` cannot be written; then what stood at `out` before is still there.
    """
    out = locate(settings.out)
    if not settings.images.startswith(HUGGING_FACE):
        _check_places(locate(settings.images), out)
    artifacts.check_destination(out, KIND)
    backbone = load_backbone(settings.backbone, settings.weights, settings.image_size, settings.fit)
    progress("listing files", 0, 1)
    if table is None:
        listing = list_images(settings.images, settings.label_from, settings.split)
    else:
        listing = list_table(table, locate(settings.images), "the table of images")
    progress("listing files", 1, 1)
    config = {
        "images": absolute(settings.images),
        "label_from": settings.label_from,
        "backbone": backbone.recorded,
        "dimension": backbone.dimension,
    }
    schema = result_schema(backbone.dimension, backbone.knows_classes)
    pieces = Pieces(out, config)
    known = Known.of(listing, [pieces.earlier(), _earlier(out, config)])
    with session():
        _check_gpus(settings)
        started = time.monotonic()
        with closing(_stream(settings, backbone, listing, known, progress)) as results:
            outcome = keep_results(results, listing, known, pieces, schema)
        seconds = time.monotonic() - started
    with artifacts.create(out, KIND, config) as writer:
        progress("writing features", 0, len(listing))
        embedded = Known.of(listing, [pieces.written()])
        summary = write_features(writer, listing, known, embedded, outcome, schema)
        summary["images_per_second"] = round(summary["embedded"] / seconds, 1)
        writer.metrics.update(summary)
    pieces.delete()
    return summary


def _stream(
    settings: EmbedSettings,
    backbone: Backbone,
    listing: Listing,
    known: Known,
    progress: Progress,
) -> Generator[pa.Table, None, None]:
    """Yield results for all files that are not known to be unchanged, in the listing's order."""
    wanted = pa.array(~known.unchanged)
    files = listing.table.select(WHERE)
    files = files.append_column("known_hash", known.content_hash).filter(wanted).combine_chunks()
    if not files.num_rows:
        return
    cpus = max(1, amount("CPU"))
    import ray
    from ray import cloudpickle

    # Ten steps at least, where there are enough files: no result is seen before its task's last.
    tasks = max(_STEPS, 2 * cpus)
    rows = min(FILES_PER_TASK, max(_FILES_WORTH_A_TASK, -(-files.num_rows // tasks)))
    batch = min(settings.batch_size, max(_FILES_WORTH_A_TASK, -(-files.num_rows // _STEPS)))
    blocks = [files.slice(first, rows) for first in range(0, files.num_rows, rows)]
    workers = settings.num_workers
    if not workers:
        workers = amount("GPU") if settings.use_gpu else cpus
        # Each loads PyTorch, which takes as long as some batches do.
        workers = min(workers, -(-files.num_rows // (2 * settings.batch_size)))
    threads = max(1, cpus // workers)
    # On CPUs a worker reserves less than a decoding task, or Ray Data would fuse the two stages,
    # and nothing at all where the workers' shares could leave no node a whole processor for it.
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())
    spare = not nodes or cpus - workers / 2 >= nodes
    share: dict[str, Any] = {"num_cpus": 0.5 if spare else 0}
    if settings.use_gpu:
        share = {"num_gpus": 1}
    decode = DecodePictures(
        listing.filesystem, backbone.image_size, backbone.fit, settings.max_pixels
    )

    def decode_block(table: pa.Table) -> pa.Table:
        return decode(table)

    with quiet_ray_data(), actors_by_value(), _in_order():
        decoded = ray.data.from_arrow(blocks).map_batches(
            decode_block, batch_size=None, batch_format="pyarrow"
        )
        embedded = decoded.map_batches(
            EmbedPictures,
            fn_constructor_args=(cloudpickle.dumps(ray.put(backbone)), settings.use_gpu, threads),
            batch_size=batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            **share,
        )
        done = 0
        progress("starting workers", 0, workers)  # takes longer than some hundred pictures
        batches: Any = embedded.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in batches:
            if not done:
                progress("starting workers", workers, workers)
                progress("embedding images", 0, files.num_rows)
            done += table.num_rows
            progress("embedding images", done, files.num_rows)
            yield table


def _earlier(out: Location, config: dict[str, Any]) -> FeatureTable | None:
    """Return the features that stand at `out`, if they are sound and made by the same backbone."""
    try:
        artifact = artifacts.load(out, KIND)
        if artifact.config.get("backbone") != config["backbone"]:
            return None
        return FeatureTable(artifact)
    except ArtifactError:
        return None


def _check_places(source: Location, out: Location) -> None:
    inside = out.path == source.path or out.path.startswith(source.path.rstrip("/") + "/")
    if inside and out.filesystem == source.filesystem:
        raise ConfigError(f"--out {out.uri}: is inside --images; choose a place beside it")


def _check_gpus(settings: EmbedSettings) -> None:
    gpus = amount("GPU")
    wanted = max(1, settings.num_workers)
    if not settings.use_gpu or gpus >= wanted:
        return
    if not can_grow():
        raise ConfigError(
            f"--num-workers {wanted}: Ray has {gpus} GPUs; give fewer workers, "
            f"or leave out --use-gpu"
        )
    if not settings.num_workers:
        raise ConfigError("--num-workers: is needed on a cluster that has no GPU yet")


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), values.shape[1])


@contextmanager
def _in_order() -> Iterator[None]:
    """Let Ray Data hand on blocks in the order they came in."""
    import ray

    options = ray.data.DataContext.get_current().execution_options
    before = options.preserve_order
    options.preserve_order = True
    try:
        yield
    finally:
        options.preserve_order = before
