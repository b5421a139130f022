"""How fast sentences are translated on this processor, by precision, beside a plain loop.

    python -m benchmarks.decoding --translator runs/translator --source val.fr --reference val.en

The plain loop is the model as it is trained, a word at a time for a whole batch until its last
sentence has ended (greedy alone). All sides run alternately, and the median of the rounds is
printed: sentences a second, and the BLEU of what they find (Moses-tokenised and lowercased).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from seqvis.text.vocab import BOS, EOS
from seqvis.translation.batches import pad_ids
from seqvis.translation.inference import NEVER
from seqvis.translation.metrics import score_texts
from seqvis.translation.products import Precision
from seqvis.translation.sentences import Hypothesis, SearchSettings
from seqvis.translation.translator import Translator

Side = Callable[[list[str]], list[str]]


@torch.no_grad()
def plain_loop(translator: Translator, texts: list[str], batch_size: int) -> list[str]:
    """Greedy translations by the model as it is trained."""
    languages, model = translator.languages, translator.model
    tokens = languages.source_tokenizer.tokenize_many(texts)
    order = sorted(range(len(texts)), key=lambda n: len(tokens[n]))
    found = [""] * len(texts)
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        source, lengths = pad_ids([languages.source_ids(tokens[row]) for row in rows])
        state = model.encode(source, lengths)
        words = torch.full((len(rows),), BOS)
        ended = torch.zeros(len(rows), dtype=torch.bool)
        steps = []
        while not ended.all() and len(steps) < 2 * source.shape[1] + 10:
            output, state = model.decoder.run(words.unsqueeze(0), state)
            scores = model.decoder.logits(output.outputs[0])
            scores[:, list(NEVER)] = -torch.inf
            words = scores.argmax(-1)
            ended |= words == EOS
            steps.append(words)
        for row, ids in zip(rows, torch.stack(steps, 1).tolist(), strict=True):
            end = ids.index(EOS) if EOS in ids else len(ids)
            one = Hypothesis(ids[:end], 0.0, None, True)
            found[row] = translator.translation(texts[row], tokens[row], [one]).text
    return found


def sides(uri: str, search: SearchSettings, batch_size: int) -> dict[str, Side]:
    """What is compared, by name."""
    found: dict[str, Side] = {}
    if search.beam == 1:
        plain = Translator.load(uri)
        found["plain loop"] = lambda texts: plain_loop(plain, texts, batch_size)
    for precision in get_args(Precision):
        found[precision] = _with(Translator.load(uri, precision=precision), search, batch_size)
    return found


def _with(translator: Translator, search: SearchSettings, batch_size: int) -> Side:
    return lambda texts: [one.text for one in translator.translate(texts, search, batch_size)]


def measure(
    compared: dict[str, Side], texts: list[str], references: list[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Sentences a second, times the first side's, BLEU, and how many texts the first differs in."""
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    made: dict[str, list[str]] = {}
    for side in compared.values():
        side(texts[:64])
    for _ in range(rounds):
        for name, side in compared.items():
            began = time.perf_counter()
            made[name] = side(texts)
            seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds[next(iter(compared))])
    reference = made["float32"]
    return {
        name: {
            "per_second": round(len(texts) / statistics.median(seconds[name]), 1),
            "times": round(base / statistics.median(seconds[name]), 2),
            "bleu": round(score_texts(made[name], references, "moses", "en", True).bleu, 2),
            "unlike float32": sum(a != b for a, b in zip(made[name], reference, strict=True)),
        }
        for name in compared
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--translator", required=True)
    parser.add_argument("--source", type=Path, required=True, help="a sentence a line")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    texts, references = (
        path.read_text(encoding="utf-8").splitlines()[: given.sentences]
        for path in (given.source, given.reference)
    )
    compared = sides(given.translator, SearchSettings(beam=given.beam), given.batch)
    print(json.dumps(measure(compared, texts, references, given.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
