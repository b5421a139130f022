"""How well words find photographs after a training on few of them, by method.

    python -m benchmarks.few_pictures --features runs/tiny-train --test runs/tiny-valid \\
        --vectors runs/glove --labels 10,50,150,200 --pictures 5,10,20,50 --out runs/few

It takes some labels and some pictures of each from a features table, trains `devise`, `conse` and
`blend` on them, and searches the pictures of another table: for the labels trained on among their
pictures, and for the other labels among theirs. A word is found if a picture of its label is among
the first five.
"""

import argparse
import io
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from benchmarks.instrument import as_table
from seqvis import artifacts
from seqvis.devise.evaluate import Evaluator, candidate_labels
from seqvis.devise.labels import WordNet, label_vectors
from seqvis.devise.model import DeviseModel
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.vectors.store import WordVectors
from seqvis.vision.feature_table import KIND, FeatureTable

METHODS = ("devise", "conse", "blend")
FOUND = ("its labels found", "other words found")
FIRST = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and search with each choice, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for flag in ("--features", "--test", "--vectors", "--out"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--labels", default="10,50,150")
    parser.add_argument("--pictures", default="5,10,20,50")
    flags = parser.parse_args(arguments)
    table, test = FeatureTable.open(flags.features), FeatureTable.open(flags.test)
    heads = ["labels", "pictures of each", "method", "hit@1", *FOUND]
    rows = []
    for count in map(int, flags.labels.split(",")):
        for each in map(int, flags.pictures.split(",")):
            few = f"{flags.out}/{count}-{each}"
            _take(table, few, count, each)
            for method in METHODS:
                model = _train(few, flags.vectors, f"{few}-{method}", method)
                rows.append([count, each, method, *_figures(model, test, flags.vectors)])
    print(as_table(heads, *rows))
    return 0


def _take(table: FeatureTable, out: str, count: int, each: int) -> None:
    """Write a features table of `count` labels with `each` pictures, the same in every run."""
    generator = np.random.default_rng(1)
    labels = generator.permutation(sorted(set(table.labels) - {""}))[:count]
    of_label: dict[str, list[int]] = defaultdict(list)
    for row in generator.permutation(len(table)).tolist():
        of_label[table.labels[row]].append(row)
    rows = np.array(sorted(row for label in labels for row in of_label[label][:each]))
    with artifacts.create(out, KIND, table.artifact.config) as writer:
        content = io.BytesIO()
        pq.write_table(table.take(rows, table.column_names), content)
        writer.path("parts/part-00000.parquet").write_bytes(content.getvalue())
        writer.metrics["images"] = len(rows)


def _train(features: str, vectors: str, out: str, method: str) -> DeviseModel:
    settings = {"features": features, "vectors": vectors, "out": out, "method": method}
    train(DeviseSettings.model_validate(settings), lambda event: None, restart=True)
    return DeviseModel.open(out)


def _figures(model: DeviseModel, test: FeatureTable, vectors: str) -> list[str]:
    labels = candidate_labels(model, "seen", None)
    evaluator = Evaluator(model, test, "seen", labels)
    own = evaluator.rows()
    hit = evaluator.evaluate(own).metrics["hit@1"]
    figures = [hit, _share_found(model, test, own, labels.labels, labels.vectors)]
    known = set(labels.labels)
    others = sorted(set(test.labels) - known - {""})
    store = WordVectors.open(vectors)
    words = label_vectors(others, store, WordNet.load())
    words = words.take(np.flatnonzero(words.has_vector))
    if words.labels:
        wanted = set(words.labels)
        rows = np.array([row for row, label in enumerate(test.labels) if label in wanted])
        points = model.word_space.project_labels(words, store)
        figures.append(_share_found(model, test, rows, words.labels, points))
    return [f"{figure:.3f}" for figure in figures]


def _share_found(
    model: DeviseModel, test: FeatureTable, rows: np.ndarray, labels: list[str], points: np.ndarray
) -> float:
    """Return the share of labels whose word finds one of their pictures among the first five."""
    scores = points @ model.project_table(test, rows).T
    nearest = np.argsort(-scores, axis=1)[:, :FIRST]
    present = {test.labels[row] for row in rows}
    hits = [
        any(test.labels[rows[place]] == label for place in places)
        for label, places in zip(labels, nearest, strict=True)
        if label in present
    ]
    return float(np.mean(hits))


if __name__ == "__main__":
    raise SystemExit(main())
