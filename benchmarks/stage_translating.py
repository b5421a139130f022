"""Translating the validation sentences: in batches of 100, one at a time, and with a beam of 5.

The reference is JoeyNMT with a model of the same sizes, which is made to write as many words as
ours (see its `translate`), because the length of a translation decides how long it takes. Both
are given word ids and return word ids. `plain loop` is our own model as it is trained, a word at a
time for a whole batch until its last sentence has ended. The other precisions must have float32's
BLEU within a tolerance.

    python -m benchmarks.stage_translating --outputs 9761 --inputs 300

prints the milliseconds of a product with a layer's weights, by precision and number of rows.
`linear` is PyTorch's own layer in float32. All sides run in turn, on one thread, so that none finds
its weights in the cache; the quickest of the rounds is printed.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch.nn import functional

from benchmarks.instrument import Row, Side, WrongResultError, compare, possible, rate
from benchmarks.joeynmt import joeynmt_process
from benchmarks.material import Material
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.decoding.linear import Precision, computes, pack_linear
from seqvis.decoding.search import search_many
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.languages import SourceSentence
from seqvis.text.vocabulary import BOS, EOS
from seqvis.translation.metrics import score_texts
from seqvis.translation.translator import Translator

TOLERANCE = 0.2  # BLEU, on all sentences
_FEWER = 3.0  # times as much BLEU may differ on a few sentences

ROWS = (1, 4, 8, 16, 20, 32, 64)

Ids = list[list[int]]
Translate = Callable[[Sequence[Sequence[int]]], Ids]


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """Rows for greedy search in batches, one at a time, and for a beam of 5."""
    with joeynmt_process(material.task("all")) as joeynmt:
        yield from _measure(material, joeynmt, rounds)


def _measure(material: Material, joeynmt: Callable[..., Any], rounds: int) -> Iterator[Row]:
    plain = Translator.load(material.translator)
    ours = {
        f"seqvis, {precision}": Translator.load(material.translator, precision=precision)
        for precision in possible(dict.fromkeys(get_args(Precision), 1.0))
    }
    lines = list(zip(material.lines("valid.fr"), material.lines("valid.en"), strict=True))
    random.Random(0).shuffle(lines)
    kinds: list[tuple[str, int, int, int, dict[Precision, float]]] = [
        ("greedy translation", 1000, 100, 1, _goals(3.5, 4.5, 0, 5)),
        ("one sentence at a time", 100, 1, 1, _goals(3, 6, 0, 6)),
        ("beam 5", 100, 100, 5, _goals(3, 6, 0, 6)),
    ]
    for stage, count, batch, beam, least in kinds:
        goals = {f"seqvis, {precision}": goal for precision, goal in possible(least).items()}
        chosen = lines[:count]
        sources = plain.read([text for text, _ in chosen])
        given = [list(source.ids) for source in sources]
        written = [len(ids) + 1 for ids in _ours(plain, batch, beam)(given)]  # with the end mark
        theirs = partial(joeynmt, "translate", batch=batch, beam=beam, lengths=written)
        translate: dict[str, Translate] = {"JoeyNMT": theirs}
        if beam == 1:
            translate["plain loop"] = _plain_loop(plain, batch)
        for name in goals:
            translate[name] = _ours(ours[name], batch, beam)
        checks = _check(plain, translate, sources, [text for _, text in chosen])
        sides = [
            Side(name, partial(rate, len(given), partial(side, given)), goals.get(name))
            for name, side in translate.items()
        ]
        yield compare(stage, "sentences/s", sides, rounds, checks)


def _goals(*least: float) -> dict[Precision, float]:
    """Return the goal of each precision; 0: none, as for float16, which only PyTorch computes."""
    return dict(zip(get_args(Precision), least, strict=True))


def _sorted_by_length(translate: Translate) -> Translate:
    """Translate the shortest sentences first; return all in the order in which they came."""

    def sorted_translate(given: Sequence[Sequence[int]]) -> Ids:
        order = sorted(range(len(given)), key=lambda row: len(given[row]))
        translations = translate([given[row] for row in order])
        by_row = dict(zip(order, translations, strict=True))
        return [by_row[row] for row in range(len(given))]

    return sorted_translate


def _ours(translator: Translator, batch: int, beam: int) -> Translate:
    settings = DecodingSettings(beam=beam)

    def translate(given: Sequence[Sequence[int]]) -> Ids:
        searched = search_many(translator.packed, given, settings, batch)
        return [list(hypotheses[0].ids) for hypotheses in searched]

    return _sorted_by_length(translate)


def _plain_loop(translator: Translator, batch: int) -> Translate:
    """Greedy translations by the model as it is trained."""
    model = translator.model

    @torch.no_grad()
    def word_by_word(sentences: Sequence[Sequence[int]]) -> Ids:
        source = SourceBatch.of(sentences)
        state = model.encode(source)
        words = torch.full((len(sentences),), BOS)
        ended = torch.zeros(len(sentences), dtype=torch.bool)
        steps: list[torch.Tensor] = []
        while not ended.all() and len(steps) < 2 * source.ids.shape[1] + 10:
            output = model.step(words, state)
            state, words = output.state, output.scores.argmax(-1)
            ended |= words == EOS
            steps.append(words)
        written = torch.stack(steps, 1).tolist()
        return [ids[: ids.index(EOS)] if EOS in ids else ids for ids in written]

    def translate(given: Sequence[Sequence[int]]) -> Ids:
        begins = range(0, len(given), batch)
        return [ids for begin in begins for ids in word_by_word(given[begin : begin + batch])]

    return _sorted_by_length(translate)


def _check(
    translator: Translator,
    translate: dict[str, Translate],
    sources: Sequence[SourceSentence],
    references: Sequence[str],
) -> dict[str, Any]:
    """BLEU and words a sentence of each side. Raises WrongResultError if ours lose BLEU."""
    checks: dict[str, Any] = {}
    texts = {}
    for name, side in translate.items():
        translations = side([list(source.ids) for source in sources])
        texts[name] = [
            translator.translation(source, [Hypothesis(ids, 0.0, None, True)]).text
            for source, ids in zip(sources, translations, strict=True)
        ]
        checks[name] = {
            "bleu": round(score_texts(texts[name], references, "moses", "en", True).bleu, 2),
            "words a sentence": round(sum(map(len, translations)) / len(translations), 2),
        }
    base = checks["seqvis, float32"]["bleu"]
    allowed = TOLERANCE * (1 if len(sources) >= 1000 else _FEWER)
    for name, check in checks.items():
        both = zip(texts[name], texts["seqvis, float32"], strict=True)
        check["unlike float32"] = sum(text != other for text, other in both)
        if name.startswith("seqvis") and check["bleu"] < base - allowed:
            raise WrongResultError(f"{name}: BLEU {check['bleu']}, float32 has {base}")
    return checks


def measure_products(outputs: int, inputs: int, rounds: int) -> dict[int, dict[str, float]]:
    """Milliseconds by number of rows and side."""
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    sides: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "linear": lambda rows: functional.linear(rows, weight, bias)
    }
    for precision in filter(computes, get_args(Precision)):
        sides[precision] = pack_linear(weight, bias, precision)
    table: dict[int, dict[str, float]] = {}
    for rows in ROWS:
        given = torch.randn(rows, inputs)
        best = dict.fromkeys(sides, 0.0)
        for _ in range(rounds):
            for name, side in sides.items():
                best[name] = max(best[name], rate(1, partial(side, given)))
        table[rows] = {name: round(1e3 / quickest, 3) for name, quickest in best.items()}
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the milliseconds of products."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--outputs", type=int, default=9761)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=60)
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.no_grad():
        print(json.dumps(measure_products(flags.outputs, flags.inputs, flags.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
