"""Preparing a corpus beside spaCy's own tokenizers, and the question filter.

spaCy tokenizes the lines of both files, once, and does nothing else; `prepare_corpus` also reads,
filters, counts, numbers and writes them. Both rates are for one core, though the job uses all. They
are rates of the pairs by which a longer run exceeds a shorter one, so that the start of Ray and its
workers is not in them. The question filter runs in one process, with one question in 20 pairs.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.instrument import Row, Side, WrongResultError, compare, rate
from benchmarks.material import Material, run_job, write_pairs
from seqvis.corpus.filters import Tally, question_pair
from seqvis.corpus.inputs.aligned import read_pairs
from seqvis.corpus.settings import PrepareSettings
from seqvis.corpus.tokens import usable_pairs
from seqvis.process import usable_processors
from seqvis.samples.questions import generate_pairs
from seqvis.storage import locate
from seqvis.text.lines import Start
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer

GENERATED, FILTERED = 120_000, 200_000
BLOCKS = 8  # of the longer run; the shorter one has a quarter, one for each of two cores


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """Yield rows for the job and for the question filter."""
    with tempfile.TemporaryDirectory() as folder:
        yield _job(material, Path(folder), rounds)
        yield _question_filter(Path(folder), rounds)


def _job(material: Material, folder: Path, rounds: int) -> Row:
    import spacy

    if material.data:
        names = [material.texts["train.fr"], material.data / "tatoeba" / "tatoeba.fr"]
        sides = [
            [line for name in names for line in name.with_suffix(end).read_text().splitlines()]
            for end in (".fr", ".en")
        ]
        pairs = list(zip(*sides, strict=True))
        random.Random(0).shuffle(pairs)
    else:
        questions = generate_pairs(GENERATED, 3)  # 7,000 a second: the rest are numbered copies
        pairs = [(f"{n} {fr}", f"{n} {en}") for n in range(4) for fr, en in questions]
    few = len(pairs) // 4
    for count in (few, len(pairs)):
        write_pairs(folder, str(count), pairs[:count])
    block = -(-len(pairs) // BLOCKS)

    def tokenizers() -> list[Any]:
        """Return new ones, as a tokenizer keeps what it has made of a word."""
        return [spacy.blank(language).tokenizer for language in ("fr", "en")]

    same = _same_tokens(pairs, tokenizers())
    checks = {"pairs": len(pairs), "lines tokenised as spaCy does": same}

    def tokenise() -> float:
        fresh = tokenizers()

        def work(part: list[tuple[str, str]]) -> None:
            for number, tokenizer in enumerate(fresh):
                for _ in tokenizer.pipe(pair[number] for pair in part):
                    pass

        work(pairs[:few])
        return rate(len(pairs) - few, lambda: work(pairs[few:]))

    def prepare() -> float:
        seconds = [_seconds_of_job(folder, count, block) for count in (few, len(pairs))]
        return (len(pairs) - few) / (seconds[1] - seconds[0]) / usable_processors()

    sides_compared = [
        Side("spaCy's tokenizers alone", tokenise),
        Side("prepare_corpus", prepare, 0.85),
    ]
    return compare("preparing a corpus", "pairs/s and core", sides_compared, rounds, checks)


def _seconds_of_job(folder: Path, count: int, block: int) -> float:
    """Return the job's own seconds for `count` pairs in blocks of `block`."""
    out = folder / "corpus"
    run_job(
        "prepare_corpus", "--source", folder / f"{count}.fr", "--target", folder / f"{count}.en",
        "--source-lang", "fr", "--target-lang", "en", "--lines-per-block", block, "--out", out,
    )  # fmt: skip
    return float(json.loads((out / "report.json").read_text())["seconds"])


def _same_tokens(pairs: list[tuple[str, str]], tokenizers: list[Any]) -> str:
    same = total = 0
    for number, language in enumerate(("fr", "en")):
        ours = load_tokenizer(TokenizerSettings(language=language, lowercase=False))
        for pair in pairs[:2000]:
            theirs = [token.text for token in tokenizers[number](pair[number])]
            same += ours.tokenize(pair[number]) == [token for token in theirs if token.strip()]
            total += 1
    if same < 0.99 * total:
        raise WrongResultError(f"only {same} of {total} lines are tokenised as spaCy does")
    return f"{same} of {total}"


def _question_filter(folder: Path, rounds: int) -> Row:
    questions = generate_pairs(1000, 4)
    pairs = [(f"{fr[:-1]}.", f"{en[:-1]}.") for fr, en in generate_pairs(19_000, 5)]
    pairs = random.Random(0).sample(questions + pairs, 20_000)
    paths = write_pairs(folder, "questions", pairs * (FILTERED // len(pairs)))
    lines = [path.read_text().splitlines() for path in paths]
    start = Start(0, 0)
    settings = PrepareSettings(
        source=str(paths[0]), target=str(paths[1]), source_lang="fr", target_lang="en",
        filter="questions", out=str(folder / "none"),
    )  # fmt: skip
    kept = {}

    def bare() -> None:
        questions = [question_pair(fr, en, "fr", "en") for fr, en in zip(*lines, strict=True)]
        kept["expressions alone"] = len(questions) - questions.count(None)

    def ours() -> None:
        places = [locate(str(path)) for path in paths]
        kept["with reading"] = sum(
            usable_pairs(table, settings, Tally()).num_rows
            for table in read_pairs(
                (places[0], start), (places[1], start), range(FILTERED), settings.max_line_bytes
            )
        )

    sides = [
        Side("500,000 a second", lambda: 500_000.0),
        Side("expressions on lines in memory", lambda: rate(FILTERED, bare)),
        Side("reading and filtering", lambda: rate(FILTERED, ours), 1.0),
    ]
    row = compare("question filter", "pairs/s and core", sides, rounds, kept)
    if len(set(kept.values())) != 1:
        raise WrongResultError(f"kept: {kept}")
    return row
