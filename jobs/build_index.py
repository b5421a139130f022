"""Make a collection from features and a model."""

import time
from functools import partial
from typing import Any

from pydantic import Field
from rich.console import Console

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.collection.index import Backend, IndexSettings
from seqvis.devise.model import DeviseModel
from seqvis.search.build import PictureItems, build_collection
from seqvis.storage import local_path
from seqvis.vision.feature_table import FeatureTable


class BuildIndex(JobSettings):
    """Makes a collection that words and pictures search, of a model and a features table.

    One that stands at --out is replaced when the new one is whole.
    """

    model: str
    """Directory or URI that train_devise wrote."""
    features: str
    """Directory or URI that embed_images wrote, with the model's backbone."""
    out: str
    """Directory of the collection, on a local disk."""
    backend: Backend = "nmslib"
    """nmslib (a graph; fast, recall about 0.99), symphonyqg (another graph, faster for vectors
    of some hundred numbers, twice as large; pip install 'seqvis[symphonyqg]') or exact."""
    columns: tuple[str, ...] = ()
    """Further columns of the features to keep as metadata, to filter by."""
    recall_queries: int = Field(1000, ge=0)
    """Searches by which recall and speed are measured at the end; 0: not measured."""
    index: IndexSettings = IndexSettings()


def run(settings: BuildIndex) -> dict[str, Any]:
    """Build and measure; return what was built and how much of the truth it finds."""
    started = time.monotonic()
    console = Console(stderr=True)
    out = local_path(settings.out)
    model = DeviseModel.open(settings.model)
    table = FeatureTable.open(settings.features)
    items = PictureItems(model, table, settings.columns)
    with console.status(f"indexing {len(table):,} pictures"):
        collection = build_collection(model, items, table, out, settings.backend, settings.index)
    with collection, console.status("measuring recall"):
        report = collection.recall_report(k=10, queries=settings.recall_queries)
        result = {
            "items": len(collection),
            "left_out": items.left_out,
            "dimension": collection.dimension,
            "backend": collection.backend,
            "recall@10": report["recall"],
            "median_ms": report.get("median_ms"),
            "exact_median_ms": report.get("exact_median_ms"),
        }
    return {**result, "seconds": round(time.monotonic() - started, 2), "out": settings.out}


main = partial(run_job, BuildIndex, run)

if __name__ == "__main__":
    leave(main())
