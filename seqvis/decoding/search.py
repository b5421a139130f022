"""Decode whole lists of sentences, on all of PyTorch's threads.

Serving and offline translation run the same batch: here all sentences join it at the start.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from seqvis.decoding.beam import DecodingSettings, Hypothesis, start_decoding
from seqvis.decoding.native import NativeSeq2Seq, Packed, start_batch
from seqvis.seq2seq.state import SourceBatch, StepModel

_FEWEST = 16  # sentences that are worth a thread of their own
_ANY = 1 << 30  # words at a time


def search(
    model: StepModel | NativeSeq2Seq, source: SourceBatch, settings: DecodingSettings
) -> list[list[Hypothesis]]:
    """Return at most `n_best` hypotheses for each sentence of a batch, best first."""
    decodings = [start_decoding(length, settings) for length in source.lengths.tolist()]
    batch = start_batch(model)
    batch.join(decodings, model.encode(source))
    while batch.rows:
        batch.step(most=_ANY)
    return [decoding.hypotheses for decoding in decodings]


def search_many(
    model: Packed,
    sentences: Sequence[Sequence[int]],
    settings: DecodingSettings,
    batch_size: int,
) -> list[list[Hypothesis]]:
    """Decode any number of sentences, word ids with `_eos_`, best given in order of length.

    On a CPU PyTorch's threads search shares of a batch at once (`map_threads`). A small batch gets
    one thread: several would wait longer for each other at each product than they gain.
    """
    on_cpu = model.device.type == "cpu"
    shares = max(1, min(torch.get_num_threads() if on_cpu else 1, batch_size // _FEWEST))
    size = -(-batch_size // shares)

    def decode(begin: int) -> list[list[Hypothesis]]:
        return search(model, SourceBatch.of(sentences[begin : begin + size]), settings)

    small = on_cpu and min(size, len(sentences)) < _FEWEST
    results = map_threads(decode, range(0, len(sentences), size), shares, small)
    return [hypotheses for result in results for hypotheses in result]


Piece = TypeVar("Piece")
Result = TypeVar("Result")

_SETTING = threading.Lock()  # held by the caller that changed the process's setting


def map_threads(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], threads: int, small: bool = False
) -> list[Result]:
    """Call `work` with each piece, in at most `threads` threads, which share PyTorch's.

    Threads that share every small product lose more by waiting for each other than they gain. With
    one piece or one thread, pieces run one after the other on all of PyTorch's threads, or on one
    if they are `small`. The number of threads per product is a setting of the process: while one
    caller has lowered it, others run their pieces one after the other.
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
