"""Search for translations: greedy and beam search in a batch that sentences join and leave.

Given a model and padded source ids, the result is each sentence's hypotheses, best first. New
sentences can join a `RunningBatch` before any step, and each leaves at the step where it ends
(cellular batching, Gao et al., EuroSys 2018). So a batch costs what its sentences cost, and not
their number times the length of the longest. `search` does the same with all sentences present from
the start: serving and offline translation run the same code.

When several pieces of a list are searched at once, each gets a share of PyTorch's threads, because
threads that share every small product lose more by waiting for each other than they gain. The
number of threads per product is a setting of the process, so while pieces run it is lower for every
thread that begins to use PyTorch.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from seqvis.decoding.batch import Rows
from seqvis.decoding.beam import (
    Candidates,
    Hypothesis,
    SearchSettings,
    Sentence,
    sentence_of,
)
from seqvis.decoding.packed import Encoded, Inference
from seqvis.seq2seq.decoder import likeliest
from seqvis.seq2seq.encoder import pad_ids
from seqvis.text.vocabulary import BOS

_FEWEST = 16  # sentences that are worth a thread of their own
_BLOCK = 128  # words whose highest score is looked at before themselves


def search(
    model: Inference, source: Tensor, lengths: Tensor, settings: SearchSettings
) -> list[list[Hypothesis]]:
    """Translates a batch.

    Args:
        source: (batch, source_length) word ids with `_eos_`, on the model's device.
        lengths: (batch,) their real lengths, on the CPU.

    Returns:
        For each sentence `n_best` hypotheses at the most, best first.
    """
    batch = RunningBatch(model)
    read = read_sentences(model, source, lengths, [settings] * len(lengths))
    batch.join(read)
    while batch.rows:
        batch.step()
    return [sentence.hypotheses for sentence in read.sentences]


def search_many(
    model: Inference,
    sentences: Sequence[Sequence[int]],
    settings: SearchSettings,
    batch_size: int,
) -> list[list[Hypothesis]]:
    """Translates any number of sentences, each word ids with `_eos_`; best in order of length.

    On a CPU PyTorch's threads search shares of a batch side by side (`side_by_side`), and one alone
    a batch that is small: several would wait longer for each other at each product than they gain.
    """
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    shares = max(1, min(threads, batch_size // _FEWEST))
    size = -(-batch_size // shares)

    def translate(begin: int) -> list[list[Hypothesis]]:
        source, lengths = pad_ids([list(ids) for ids in sentences[begin : begin + size]])
        return search(model, source.to(model.device), lengths, settings)

    small = min(size, len(sentences)) < _FEWEST and model.device.type == "cpu"
    found = side_by_side(translate, range(0, len(sentences), size), shares, small)
    return [hypotheses for piece in found for hypotheses in piece]


@dataclass(frozen=True)
class ReadSentences:
    """Sentences that are encoded and can join a batch."""

    sentences: list[Sentence]
    encoded: Encoded


def read_sentences(
    model: Inference, source: Tensor, lengths: Tensor, settings: Sequence[SearchSettings]
) -> ReadSentences:
    """Reads sentences; `source` and `lengths` as for `search`.

    Another thread may do so while a batch makes a step.
    """
    new = [sentence_of(int(n), chosen) for n, chosen in zip(lengths, settings, strict=True)]
    return ReadSentences(new, model.read(source, lengths))


@dataclass(frozen=True)
class _Place:
    """A sentence's place in the batch after a step."""

    sentence: Sentence
    begin: int  # its first row during the step
    staying: list[tuple[int, int]] | None  # the row and the word that each of its rows goes on from


def _close_ranks(places: list[_Place]) -> list[_Place]:
    """Those that stay, in an order that moves few: the last ones take the places of those that
    leave, if all are equally wide."""
    kept = [place for place in places if place.staying is not None]
    if len(kept) == len(places) or len({place.sentence.width for place in places}) > 1:
        return kept
    stayed = [place for place in places[: len(kept)] if place.staying is not None]
    movers = iter(kept[len(stayed) :])
    return [place if place.staying is not None else next(movers) for place in places[: len(kept)]]


class RunningBatch:
    """Sentences that are translated together. Do not share it between threads."""

    def __init__(self, model: Inference):
        self._model = model
        self._running: list[Sentence] = []  # in the order of their rows
        self._rows: Rows | None = None
        self._words: list[int] = []  # the last word of each row

    @property
    def rows(self) -> int:
        """Rows that the next step computes: a sentence has as many as its beam is wide."""
        return len(self._words)

    def join(self, read: ReadSentences) -> None:
        """Adds sentences to the batch."""
        if self._rows is None:
            self._rows = Rows(read.encoded)
        widths = [sentence.width for sentence in read.sentences]
        self._rows.append(read.encoded, widths)
        self._running += read.sentences
        self._words += [BOS] * sum(widths)

    def drop(self, given_up: Sequence[Sentence]) -> None:
        """Takes sentences out of the batch that nobody waits for any more."""
        if not self._running or self._rows is None:
            return
        gone = {id(sentence) for sentence in given_up}
        places, begin = [], 0
        for sentence in self._running:
            rows = range(begin, begin + sentence.width)
            staying = None if id(sentence) in gone else [(row, self._words[row]) for row in rows]
            places.append(_Place(sentence, begin, staying))
            begin += sentence.width
        self._go_on(places, self._rows.hidden)

    def step(self) -> list[Sentence]:
        """Gives each sentence one word more; returns those that ended and so left the batch."""
        assert self._rows is not None
        assert self._running
        unused = [BOS] * (self._rows.shown - self.rows)
        words = torch.tensor(self._words + unused, device=self._model.device)
        found = self._model.step(words, self._rows.hidden, self._rows.source)
        # Sentences cut their rows out of it, which takes NumPy a tenth of the time.
        attention = None if found.attention is None else found.attention.float().cpu().numpy()
        places, begin = [], 0
        candidates_of = self._candidates(found.scores[: self.rows])
        for sentence, candidates in zip(self._running, candidates_of, strict=True):
            seen = None if attention is None else attention[begin : begin + sentence.width]
            grown = sentence.grow(candidates, seen)
            staying = None if grown is None else [(begin + row, word) for row, word in grown]
            places.append(_Place(sentence, begin, staying))
            begin += sentence.width
        self._go_on(places, found.hidden)
        return [place.sentence for place in places if place.staying is None]

    def _go_on(self, places: list[_Place], hidden: Tensor) -> None:
        """What stays goes on from its rows of `hidden`; what leaves is overwritten."""
        assert self._rows is not None
        kept = _close_ranks(places)
        staying = [one for place in kept for one in place.staying or ()]
        self._running = [place.sentence for place in kept]
        self._words = [word for _, word in staying]
        if not kept:
            self._rows = None
            return
        self._rows.go_on(hidden, [row for row, _ in staying])
        if len(kept) < len(places):
            to: list[int] = []
            origins: list[int] = []
            begin = 0
            for place in kept:
                if place.begin != begin:
                    to += range(begin, begin + place.sentence.width)
                    origins += range(place.begin, place.begin + place.sentence.width)
                begin += place.sentence.width
            self._rows.move(to, origins, max(place.sentence.length for place in kept))

    def _candidates(self, scores: Tensor) -> list[Candidates]:
        """What each sentence may go on with, found for all sentences of a width at once."""
        found: dict[int, Candidates] = {}
        begins: list[int] = []
        total = 0
        for sentence in self._running:
            begins.append(total)
            total += sentence.width
        probabilities = torch.log_softmax(scores, -1)
        for width in {sentence.width for sentence in self._running}:
            alike = [n for n, sentence in enumerate(self._running) if sentence.width == width]
            own = probabilities
            if len(alike) < len(self._running):
                rows = [begins[n] + place for n in alike for place in range(width)]
                own = probabilities[torch.tensor(rows, device=probabilities.device)]
            if width == 1:
                places = likeliest(own).unsqueeze(1)
                values = own.gather(1, places)
            else:
                before = torch.tensor([self._running[n].scores for n in alike], device=own.device)
                # Of 2 * width candidates at most width end here, so width go on.
                values, places = highest(own.unflatten(0, before.shape), before, 2 * width)
            origins, following = places // own.shape[1], places % own.shape[1]
            lists = zip(values.tolist(), origins.tolist(), following.tolist(), strict=True)
            for n, (value, origin, word) in zip(alike, lists, strict=True):
                found[n] = list(zip(value, origin, word, strict=True))
        return [found[n] for n in range(len(self._running))]


def highest(probabilities: Tensor, before: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of each sentence's `before + probabilities`, and where they are.

    On a CPU only the blocks of words with the highest maxima are sorted, which takes a quarter of
    the time of PyTorch's `topk` of everything (docs/results/speed.md).

    Args:
        probabilities: (sentences, width, vocabulary). before: (sentences, width).
        count: how many; fewer if there are fewer.

    Returns:
        Values and places in (width, vocabulary), flattened: (sentences, count) each, highest first.
    """
    _, width, words = probabilities.shape
    blocks = words // _BLOCK
    if probabilities.is_cuda or blocks < count:
        totals = (before.unsqueeze(2) + probabilities).flatten(1)
        values, places = totals.topk(min(count, totals.shape[1]))
        return values, places
    whole = blocks * _BLOCK
    maxima = probabilities[..., :whole].unflatten(2, (blocks, _BLOCK)).amax(3)
    chosen = (before.unsqueeze(2) + maxima).flatten(1).topk(count).indices
    begins = chosen // blocks * words + chosen % blocks * _BLOCK
    inside = (begins.unsqueeze(2) + torch.arange(_BLOCK)).flatten(1)
    outside = (torch.arange(width).unsqueeze(1) * words + torch.arange(whole, words)).flatten()
    places = torch.cat([inside, outside.expand(len(inside), -1)], 1)
    totals = before.gather(1, places // words) + probabilities.flatten(1).gather(1, places)
    values, order = totals.topk(count)
    return values, places.gather(1, order)


Piece = TypeVar("Piece")
Result = TypeVar("Result")

_SETTING = threading.Lock()  # held by the one who changed the process's setting


def side_by_side(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], threads: int, small: bool = False
) -> list[Result]:
    """Calls `work` with each piece, in at most so many threads.

    One after the other if there is one piece or one thread; then each has all of PyTorch's threads,
    or, if it is `small`, one. The same, with as many as there are, if another caller is at it.
    """
    threads = max(1, min(threads, len(pieces)))
    before = torch.get_num_threads()
    each = 1 if small else max(1, before // threads)
    if (threads, each) == (1, before) or not _SETTING.acquire(blocking=False):
        return [work(piece) for piece in pieces]
    try:
        torch.set_num_threads(each)
        if threads == 1:
            return [work(piece) for piece in pieces]
        with ThreadPoolExecutor(threads, thread_name_prefix="piece") as pool:
            return list(pool.map(work, pieces))
    finally:
        torch.set_num_threads(before)
        _SETTING.release()
