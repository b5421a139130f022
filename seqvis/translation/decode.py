"""Searching for a translation: greedy and beam search over a batch of encoded sentences.

In: a model and padded source ids. Out: for each sentence its hypotheses, best first, with
scores and attention. A sentence that is finished leaves the batch, so that a batch costs what
its sentences cost and not the length of the longest times their number.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from seqvis.config import Settings
from seqvis.text.vocab import BOS, EOS, PAD
from seqvis.translation.decoder import DecoderState
from seqvis.translation.model import Seq2Seq

_NEVER = (BOS, PAD)  # ids that no translation contains


class SearchSettings(Settings):
    """How a translation is searched for."""

    beam: int = Field(1, ge=1)
    """Hypotheses kept at each step; 1 is greedy search."""
    length_penalty: float = Field(1.0, ge=0)
    """Exponent of the length in ((5 + length) / 6), by which a beam's scores are divided (GNMT);
    0 favours short translations."""
    n_best: int = Field(1, ge=1)
    """Translations returned for a sentence; at most beam."""
    max_length_factor: float = Field(2.0, gt=0)
    """Longest translation in words, as a multiple of the source's length, plus 10."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence."""

    ids: list[int]  # without _eos_
    score: float  # sum of log probabilities in nats, divided by the length penalty
    attention: Tensor | None  # (words, source_length): weights of each word; None without attention
    finished: bool  # False if it was cut at the longest length


@torch.no_grad()
def search(
    model: Seq2Seq, source: Tensor, lengths: Tensor, settings: SearchSettings
) -> list[list[Hypothesis]]:
    """Translates a batch.

    Args:
        source: (batch, source_length) word ids with `_eos_`, on the model's device.
        lengths: (batch,) their real lengths, on the CPU.

    Returns:
        For each sentence `n_best` hypotheses at the most, best first.
    """
    if settings.beam == 1:
        return [[hypothesis] for hypothesis in _greedy(model, source, lengths, settings)]
    return _beam(model, source, lengths, settings)


def longest(lengths: Tensor, settings: SearchSettings) -> Tensor:
    """(batch,) the most words that each translation may have."""
    return (lengths * settings.max_length_factor).long() + 10


def _greedy(
    model: Seq2Seq, source: Tensor, lengths: Tensor, settings: SearchSettings
) -> list[Hypothesis]:
    state = model.encode(source, lengths)
    limits = longest(lengths, settings)
    rows = torch.arange(len(lengths))  # which sentence each row of the running batch is
    words = torch.full((len(lengths),), BOS, device=source.device)
    ids: list[list[int]] = [[] for _ in rows]
    scores = [0.0] * len(rows)
    attention: list[list[Tensor]] = [[] for _ in rows]
    done = [False] * len(rows)
    while len(rows):
        probabilities, weights, state = _advance(model, words, state)
        best = probabilities.max(-1)
        words = best.indices
        going = []
        for place, (row, score, word) in enumerate(
            zip(rows.tolist(), best.values.tolist(), words.tolist(), strict=True)
        ):
            scores[row] += score
            if word == EOS:
                done[row] = True
                continue
            ids[row].append(word)
            if weights is not None:
                attention[row].append(weights[place, : int(lengths[row])])
            if len(ids[row]) < int(limits[row]):
                going.append(place)
        if len(going) < len(rows):
            kept = torch.tensor(going, dtype=torch.long)
            rows = rows[kept]
            kept = kept.to(source.device)
            words, state = words[kept], state.select(kept)
    return [
        Hypothesis(
            ids[row],
            scores[row] / _penalty(len(ids[row]) + done[row], settings.length_penalty),
            torch.stack(attention[row]).float().cpu() if attention[row] else None,
            done[row],
        )
        for row in range(len(ids))
    ]


@dataclass(frozen=True)
class _Partial:
    """A hypothesis of a beam that is not finished."""

    ids: tuple[int, ...]
    attention: tuple[Tensor, ...]


def _beam(
    model: Seq2Seq, source: Tensor, lengths: Tensor, settings: SearchSettings
) -> list[list[Hypothesis]]:
    width, device = settings.beam, source.device
    state = model.encode(source, lengths).select(
        torch.arange(len(lengths), device=device).repeat_interleave(width)
    )
    limits = longest(lengths, settings).tolist()
    sentences = list(range(len(lengths)))  # those still running
    words = torch.full((len(lengths) * width,), BOS, device=device)
    # At first all hypotheses of a sentence are the same: only one may be extended.
    scores = torch.full((len(lengths), width), -torch.inf, device=device)
    scores[:, 0] = 0
    partial: dict[int, list[_Partial]] = {s: [_Partial((), ())] * width for s in sentences}
    finished: dict[int, list[Hypothesis]] = {s: [] for s in sentences}
    while sentences:
        probabilities, weights, state = _advance(model, words, state)
        vocabulary = probabilities.shape[-1]
        totals = (scores.view(-1, 1) + probabilities).view(len(sentences), -1)
        # Of 2 * width candidates at most width end here, so width go on.
        best = totals.topk(min(2 * width, totals.shape[1]), dim=-1)
        origins, following = best.indices // vocabulary, best.indices % vocabulary
        kept_rows: list[int] = []
        kept_words: list[int] = []
        kept_scores: list[list[float]] = []
        running: list[int] = []
        for place, sentence in enumerate(sentences):
            candidates = zip(
                best.values[place].tolist(),
                origins[place].tolist(),
                following[place].tolist(),
                strict=True,
            )
            grown: list[tuple[float, int, int, _Partial]] = []
            for rank, (score, origin, word) in enumerate(candidates):
                if score == -torch.inf:
                    continue
                one = partial[sentence][origin]
                if word == EOS:
                    if rank < width:
                        finished[sentence].append(_finish(one, score, lengths, sentence, settings))
                    continue
                if len(grown) == width:
                    continue
                seen = one.attention
                if weights is not None:
                    seen = (*seen, weights[place * width + origin, : int(lengths[sentence])])
                grown.append((score, origin, word, _Partial((*one.ids, word), seen)))
            if _is_done(finished[sentence], grown, limits[sentence], settings):
                if not finished[sentence]:
                    finished[sentence] = [
                        _finish(one, score, lengths, sentence, settings, finished=False)
                        for score, _, _, one in grown
                    ]
                continue
            running.append(sentence)
            grown += [(-torch.inf, *grown[0][1:])] * (width - len(grown))
            partial[sentence] = [one for _, _, _, one in grown]
            kept_rows += [place * width + origin for _, origin, _, _ in grown]
            kept_words += [word for _, _, word, _ in grown]
            kept_scores.append([score for score, _, _, _ in grown])
        sentences = running
        words = torch.tensor(kept_words, device=device)
        scores = torch.tensor(kept_scores, device=device)
        if sentences:
            state = state.select(torch.tensor(kept_rows, device=device))
    ordered = (finished[s] for s in range(len(lengths)))
    return [sorted(one, key=lambda h: -h.score)[: settings.n_best] for one in ordered]


def _advance(
    model: Seq2Seq, words: Tensor, state: DecoderState
) -> tuple[Tensor, Tensor | None, DecoderState]:
    """Feeds one word to each row: log probabilities (batch, words), attention, state after."""
    output, state = model.decoder.run(words.unsqueeze(0), state)
    scores = model.decoder.logits(output.outputs[0]).float()
    scores[:, list(_NEVER)] = -torch.inf
    attention = None if output.attention is None else output.attention[0]
    return torch.log_softmax(scores, -1), attention, state


def _is_done(
    finished: list[Hypothesis],
    grown: list[tuple[float, int, int, _Partial]],
    limit: int,
    settings: SearchSettings,
) -> bool:
    if not grown or len(grown[0][3].ids) >= limit:
        return True
    if len(finished) < max(settings.n_best, 1):
        return False
    # A longer hypothesis can only lose probability, but a length penalty may make up for it.
    bound = grown[0][0] / _penalty(limit if settings.length_penalty else 1, settings.length_penalty)
    worst = sorted(one.score for one in finished)[-settings.n_best]
    return bound <= worst


def _finish(
    one: _Partial,
    score: float,
    lengths: Tensor,
    sentence: int,
    settings: SearchSettings,
    finished: bool = True,
) -> Hypothesis:
    attention = None
    if one.attention:
        attention = torch.stack(one.attention)[:, : int(lengths[sentence])].float().cpu()
    penalty = _penalty(len(one.ids) + finished, settings.length_penalty)
    return Hypothesis(list(one.ids), score / penalty, attention, finished)


def _penalty(length: int, exponent: float) -> float:
    """The length penalty of GNMT (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** exponent)
