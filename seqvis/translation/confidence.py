"""How sure a translator is: the probability that a translation is good.

A translation is good if its sentence chrF against a person's is at least `GOOD`. The probability is
a logistic regression on two figures: the mean log probability of the translation's words, which of
the figures that a search yields by itself agrees well with people's judgement (Fomicheva et al.
2020, "Unsupervised Quality Estimation for Neural Machine Translation"), and the share of the
sentence's words that the model does not know. It is fitted on validation pairs, each as it is and
once more with its rarer words made unknown, since a corpus's own sentences hold few such words.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sacrebleu.metrics import CHRF

from seqvis.artifacts import Artifact
from seqvis.config import Settings, settings_from
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.decoding.direction import Direction, as_read
from seqvis.decoding.native import Packed
from seqvis.decoding.search import search_many
from seqvis.text.characters import clean_text
from seqvis.text.languages import Languages, SourceSentence
from seqvis.text.vocabulary import EOS, SPECIALS, UNK

GOOD = 60.0  # sentence chrF of a good translation, 0 to 100
CALIBRATION = "confidence.json"
_SENTENCES = 1000  # that are enough for three numbers
_SEED = 0


class Calibration(Settings):
    """The regression of one translator."""

    good_chrf: float
    """Sentence chrF of a good translation."""
    sentences: int
    """Validation pairs that it was fitted on."""
    bias: float
    log_probability: float
    """Weight of the mean log probability of a word, in nats."""
    unknown: float
    """Weight of the share of words that are unknown."""

    @classmethod
    def load(cls, artifact: Artifact) -> Self | None:
        """Return a translator's own; None if it has none, as those of earlier versions."""
        if CALIBRATION not in artifact.files:
            return None
        stored = artifact.file(CALIBRATION)
        calibration: Self = settings_from(cls, json.loads(stored.read_bytes()), stored.uri)
        return calibration

    def confidence(self, source: SourceSentence, hypothesis: Hypothesis) -> float:
        """Return the probability that a translation is good.

        It is 1 for a sentence without words, and 0 for a translation that was cut.
        """
        if not source.tokens or not hypothesis.finished:
            return float(hypothesis.finished)
        weights = self.bias, self.log_probability, self.unknown
        return float(_sigmoid(np.dot(_features(source, hypothesis), weights)))


def calibrate(
    model: Packed,
    languages: Languages,
    direction: Direction,
    sources: Sequence[str],
    references: Sequence[str],
) -> Calibration:
    """Fit the regression on greedy translations of some of these pairs."""
    every = -(-len(sources) // _SENTENCES)
    read = [languages.read(text) for text in sources[::every]]
    right = [*references[::every]] * 2
    read += _with_unknown_words(read, len(languages.source_vocabulary))
    order = sorted(
        (row for row, source in enumerate(read) if source.tokens),
        key=lambda row: len(read[row].ids),
    )
    n_best = search_many(model, [read[row].ids for row in order], DecodingSettings(), 64)
    features, good = [], []
    for row, (hypothesis, *_) in zip(order, n_best, strict=True):
        shown = as_read(hypothesis, direction)
        _, text = languages.target_text(shown.ids, read[row], shown.attention)
        features.append(_features(read[row], hypothesis))
        good.append(is_good(text, right[row], lowercase=not languages.keep_case))
    bias, log_probability, unknown = _fit(np.array(features), np.array(good)).tolist()
    return Calibration(
        good_chrf=GOOD,
        sentences=len(good),
        bias=bias,
        log_probability=log_probability,
        unknown=unknown,
    )


def is_good(translation: str, reference: str, lowercase: bool) -> bool:
    """Tell whether a translation is good, by a person's."""
    chrf = CHRF(lowercase=lowercase)
    scored = chrf.sentence_score(clean_text(translation), [clean_text(reference)])
    return bool(scored.score >= GOOD)


def _with_unknown_words(sources: Sequence[SourceSentence], vocabulary: int) -> list[SourceSentence]:
    """Return the sentences as models of smaller vocabularies would see them: in each, the words
    beyond a random rank are unknown. Vocabularies begin with the most frequent words."""
    generator = np.random.default_rng(_SEED)
    first = len(SPECIALS) + 1
    changed = []
    for source in sources:
        kept = np.exp(generator.uniform(np.log(first), np.log(max(first, vocabulary))))
        ids = [
            UNK if number >= kept and any(map(str.isalpha, form)) else number
            for number, form in zip(source.ids, source.written, strict=False)
        ]
        changed.append(replace(source, ids=(*ids, EOS)))
    return changed


def _features(source: SourceSentence, hypothesis: Hypothesis) -> tuple[float, float, float]:
    return 1.0, hypothesis.log_probability, source.unknown_share


def _fit(features: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the weights of a logistic regression, by Newton's method.

    The targets are Platt's, who adds one good and one bad case (1999, "Probabilistic Outputs for
    Support Vector Machines"), so it has a solution where nothing or everything is good.
    """
    count = int(good.sum())
    targets = np.where(good, (count + 1) / (count + 2), 1 / (len(good) - count + 2))
    weights = np.zeros(features.shape[1])
    ridge = 1e-3 * np.eye(len(weights))
    for _ in range(50):
        sure = _sigmoid(features @ weights)
        slope = features.T @ (targets - sure) - ridge @ weights
        curvature = (features.T * sure * (1 - sure)) @ features + ridge
        weights += np.linalg.solve(curvature, slope)
    return weights


def _sigmoid(logits: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * logits))
