"""Scores a DeViSE model on labelled pictures: hit@k, hierarchical precision, harmonic means."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jobs.runner import leave, run_job
from seqvis.config import JobSettings
from seqvis.devise.evaluate import CandidateSet, candidate_labels, evaluate
from seqvis.devise.labels import SEED_COVERAGE
from seqvis.devise.model import DeviseModel
from seqvis.devise.page import metrics_by_set, page_examples, write_page
from seqvis.devise.wordnet import WordNet
from seqvis.devise.words import LabelSpace, open_vectors
from seqvis.storage import locate
from seqvis.vision.featuretable import FeatureTable


class EvaluateDevise(JobSettings):
    """Scores a DeViSE model on labelled pictures: hit@k, hierarchical precision, harmonic means."""

    model: str
    """Directory or URI that train_devise wrote."""
    features: str
    """Directory or URI that embed_images wrote, with labels."""
    candidates: CandidateSet = "all"
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
    """Scores and returns the metrics, rounded to four digits."""
    model = DeviseModel.open(settings.model)
    table = FeatureTable.open(settings.features)
    needs_words = settings.candidates not in ("seen", "unseen", "all")
    vectors = open_vectors(model, settings.vectors) if needs_words else None
    labels = candidate_labels(model, settings.candidates, vectors)
    result = evaluate(model, table, settings.candidates, labels)
    if settings.per_class:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(result.per_class[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.per_class)
        locate(settings.per_class).write_bytes(text.getvalue().encode())
    if settings.page:
        examples = page_examples(model, table, settings.candidates, labels, settings.examples)
        scores = metrics_by_set(settings.candidates, result.metrics)
        write_page(locate(settings.page), f"{settings.model}: examples", scores, examples)
    rounded = {key: round(value, 4) for key, value in result.metrics.items()}
    counts = {"candidates": result.candidates, "images": result.images}
    coverage = {"coverage": _coverage(labels)} if settings.candidates == "wordnet" else {}
    return {"set": settings.candidates, **counts, **rounded, **coverage}


def _coverage(labels: LabelSpace) -> dict[str, int]:
    """How many of WordNet's nouns have a vector, and how they were found."""
    known = {"labels": len(WordNet.load()), "found": len(labels.labels)}
    return {**known, "lesson_11_found": SEED_COVERAGE, **Counter(labels.how)}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_job(EvaluateDevise, run, arguments)


if __name__ == "__main__":
    leave(main())
