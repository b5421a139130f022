"""Score a DeViSE model on labelled pictures."""

import csv
import io
import sys
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.devise.data import trained_on
from seqvis.devise.evaluate import (
    Evaluation,
    EvaluationLabels,
    Evaluator,
    candidate_labels,
)
from seqvis.devise.examples_page import metrics_by_set, page_examples, write_page
from seqvis.devise.labels import LESSON_COVERAGE, WordNet
from seqvis.devise.model import DeviseModel
from seqvis.devise.space import LabelSpace, open_vectors
from seqvis.storage import locate
from seqvis.vision.feature_table import FeatureTable

HELD_OUT, TRAINING = "pictures held out of training", "pictures of the training"
NOT_RECORDED = "pictures that may have been in the training"
_WARNINGS = {
    TRAINING: "the model was trained on every one of these pictures: the figures say how well it "
    "remembers them, not how well it finds labels; give it others",
    NOT_RECORDED: "the model does not record which pictures it was trained on; if these were "
    "among them, the figures are too high; train it again to have them told apart",
}


class EvaluateDevise(JobSettings):
    """Scores a DeViSE model on labelled pictures: hit@k, hierarchical precision, harmonic means.

    The figures are those of pictures that the model was not trained on. Pictures of its training,
    recognised by their content, are scored apart (`trained_on`).
    """

    model: str
    """Directory or URI that train_devise wrote."""
    features: str
    """Directory or URI that embed_images wrote, with labels."""
    candidates: EvaluationLabels = "all"
    """Labels that compete: those seen in training, the unseen ones, all of both, every noun of
    WordNet that has a vector, or the nouns within two or three steps of the seen ones."""
    vectors: str | None = None
    """The model's word vectors, if they were moved (for wordnet, 2-hop and 3-hop)."""
    per_class: str | None = None
    """CSV file for the scores of each label."""
    page: str | None = None
    """HTML file for example pictures with the labels nearest to each."""
    examples: int = Field(60, ge=1)
    """Pictures on the page."""


def run(settings: EvaluateDevise) -> dict[str, Any]:
    """Score and return the metrics, rounded to four digits."""
    model = DeviseModel.open(settings.model)
    table = FeatureTable.open(settings.features)
    needs_words = settings.candidates not in ("seen", "unseen", "all")
    vectors = open_vectors(model, settings.vectors) if needs_words else None
    labels = candidate_labels(model, settings.candidates, vectors)
    evaluator = Evaluator(model, table, settings.candidates, labels)
    parts = _parts(evaluator)
    results = {name: evaluator.evaluate(rows) for name, rows in parts.items()}
    measured_on, result = next(iter(results.items()))
    if measured_on != HELD_OUT:
        print(_WARNINGS[measured_on], file=sys.stderr)
    if settings.per_class:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(result.per_class[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.per_class)
        locate(settings.per_class).write_bytes(text.getvalue().encode())
    if settings.page:
        examples = page_examples(evaluator, settings.examples, among=parts[measured_on])
        scores = {
            row: figures
            for name, evaluation in results.items()
            for row, figures in metrics_by_set(
                settings.candidates, evaluation.metrics, name
            ).items()
        }
        title = f"{settings.model}: examples, {measured_on}"
        note = _WARNINGS.get(measured_on, "")
        write_page(locate(settings.page), title, scores, examples, note)
    more = {"measured_on": measured_on}
    coverage = {"coverage": _coverage(labels)} if settings.candidates == "wordnet" else {}
    also = {"trained_on": _figures(results[TRAINING])} if len(results) > 1 else {}
    counts = {"candidates": result.candidates}
    return {"set": settings.candidates, **counts, **more, **_figures(result), **coverage, **also}


def _parts(evaluator: Evaluator) -> dict[str, np.ndarray]:
    """Return the rows to score by what they are to the model, those whose figures count first."""
    rows = evaluator.rows()
    known = trained_on(evaluator.model, evaluator.table)
    if known is None:
        return {NOT_RECORDED: rows}
    parts = {HELD_OUT: rows[~known[rows]], TRAINING: rows[known[rows]]}
    return {name: part for name, part in parts.items() if len(part)}


def _figures(result: Evaluation) -> dict[str, Any]:
    metrics = {key: round(value, 4) for key, value in result.metrics.items()}
    return {"images": result.images, **metrics}


def _coverage(labels: LabelSpace) -> dict[str, int]:
    """Return how many of WordNet's nouns have a vector, and how they were found."""
    known = {"labels": len(WordNet.load()), "found": len(labels.labels)}
    return {**known, "lesson_11_found": LESSON_COVERAGE, **Counter(labels.how)}


main = partial(run_job, EvaluateDevise, run)

if __name__ == "__main__":
    leave(main())
