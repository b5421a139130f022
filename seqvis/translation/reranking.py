"""Choose among the translations that a beam search finds: by other models, or by Bayes risk.

Models that write from right to left judge the end of a sentence where left-to-right ones guess, so
both together choose better than either (Liu et al. 2016, "Agreement on Target-Bidirectional Neural
Machine Translation"). Minimum Bayes risk takes the translation that is most like all of them
(Kumar and Byrne 2004), by chrF.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from sacrebleu.metrics import CHRF
from torch import Tensor

from seqvis.config import Settings
from seqvis.decoding.beam import DecodingSettings, Hypothesis, length_penalty
from seqvis.decoding.direction import Direction
from seqvis.errors import ConfigError
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.state import NEVER_GENERATED, SourceBatch, pad_ids
from seqvis.text.vocabulary import EOS, PAD
from seqvis.translation.trained import TrainedModel, check_same_words

_AT_ONCE = 64  # hypotheses that are scored together

NBest = Sequence[Sequence[Hypothesis]]
"""The hypotheses for each sentence, best first, as the model wrote them."""


class RerankingSettings(Settings):
    """How the best of the translations that a beam search finds is chosen."""

    rescore: tuple[str, ...] = ()
    """Translators, trained on the same corpus, that score what the search finds; best are those of
    the other direction."""
    rescore_weight: float = Field(1.0, ge=0)
    """Weight of their mean score, where the search's own has 1."""
    select: Literal["likeliest", "mbr"] = "likeliest"
    """likeliest: the highest score; mbr: the least Bayes risk, which is the highest chrF against
    all that the search found, each weighted by its probability."""

    @property
    def reranks(self) -> bool:
        """Whether the search's own order may change."""
        return bool(self.rescore) or self.select == "mbr"


@dataclass(frozen=True)
class Reranker:
    """Ranks what a search found."""

    settings: RerankingSettings
    rescorers: Sequence[TrainedModel]

    @classmethod
    def load(cls, settings: RerankingSettings, of: TrainedModel, device: str) -> Self | None:
        """Open what reranks the translations of a model; None if nothing does."""
        if not settings.reranks:
            return None
        rescorers = [TrainedModel.load(uri, device) for uri in settings.rescore]
        check_same_words([of, *rescorers])
        return cls(settings, rescorers)

    def widened(self, settings: DecodingSettings) -> DecodingSettings:
        """Return the settings of a search for all that is ranked. Raises ConfigError if its beam
        finds a single translation."""
        if settings.beam == 1:
            raise ConfigError(
                "--rescore and --select mbr choose among the translations of a beam: give --beam, "
                "such as --beam 5"
            )
        return settings.model_copy(update={"n_best": settings.beam})

    def rank(
        self,
        sources: Sequence[Sequence[int]],
        n_best: NBest,
        exponent: float,
        direction: Direction,
        text: Callable[[int, Hypothesis], str],
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses best first, with their new scores.

        Args:
            sources: word ids with `_eos_`.
            n_best: what the search found for each.
            exponent: of its length penalty.
            direction: in which it was written.
            text: gives the text of a hypothesis, and the number of its source.
        """
        if self.rescorers:
            n_best = self._rescored(sources, n_best, exponent, direction)
        if self.settings.select == "likeliest":
            return [sorted(each, key=lambda hypothesis: -hypothesis.score) for each in n_best]
        ranked = []
        for row, hypotheses in enumerate(n_best):
            logs = [each.score * _penalty(each, exponent) for each in hypotheses]
            expected = expected_chrf([text(row, each) for each in hypotheses], logs)
            ranked.append([hypotheses[place] for place in np.argsort(-expected, kind="stable")])
        return ranked

    def _rescored(
        self,
        sources: Sequence[Sequence[int]],
        n_best: NBest,
        exponent: float,
        direction: Direction,
    ) -> list[list[Hypothesis]]:
        pairs = [
            (source, hypothesis.ids)
            for source, hypotheses in zip(sources, n_best, strict=True)
            for hypothesis in hypotheses
        ]
        total = torch.zeros(len(pairs))
        for rescorer in self.rescorers:
            turn = 1 if rescorer.direction == direction else -1
            for begin in range(0, len(pairs), _AT_ONCE):
                given, written = zip(*pairs[begin : begin + _AT_ONCE], strict=True)
                target, _ = pad_ids([[*ids[::turn], EOS] for ids in written])
                logs = log_probabilities(rescorer.model, SourceBatch.of(given), target)
                total[begin : begin + _AT_ONCE] += logs.cpu()
        weight, means = self.settings.rescore_weight, iter((total / len(self.rescorers)).tolist())

        def rescored(hypothesis: Hypothesis) -> Hypothesis:
            other = next(means) / _penalty(hypothesis, exponent)
            return replace(hypothesis, score=(hypothesis.score + weight * other) / (1 + weight))

        return [[rescored(hypothesis) for hypothesis in hypotheses] for hypotheses in n_best]


def _penalty(hypothesis: Hypothesis, exponent: float) -> float:
    return length_penalty(len(hypothesis.ids) + hypothesis.finished, exponent)


@torch.no_grad()
def log_probabilities(model: Seq2Seq, source: SourceBatch, target: Tensor) -> Tensor:
    """Return the log probability of each target (rows, steps) given its source: (rows,) nats."""
    device = model.decoder.projection.weight.device
    target = target.to(device)
    forced = torch.ones(target.shape[1], dtype=torch.bool)
    scores = model.decoder.projection(model(source.to(device), target, forced).features)
    scores[..., NEVER_GENERATED] = -torch.inf
    words = target.t()
    logs = torch.log_softmax(scores, -1).gather(2, words.unsqueeze(2)).squeeze(2)
    return logs.masked_fill(words == PAD, 0.0).sum(0)


def expected_chrf(texts: Sequence[str], logs: Sequence[float]) -> np.ndarray:
    """Return each text's mean chrF against all texts, weighted by the exponentials of `logs`."""
    weights = np.exp(np.array(logs) - max(logs))
    chrf = CHRF()
    scores = [[chrf.sentence_score(text, [other]).score for other in texts] for text in texts]
    expected: np.ndarray = np.array(scores) @ weights / weights.sum()
    return expected
