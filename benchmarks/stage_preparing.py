"""Preparing a corpus: the job's rate beside spaCy's own tokenising, and the question filter's.

spaCy tokenises the lines of both files and does nothing else; `prepare_corpus` also reads, filters,
counts, numbers and writes them (the time in which Ray starts is not its own). Both rates are for
one core: the job uses all.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.instrument import Row, Side, WrongResultError, compare, rate
from benchmarks.material import Material
from seqvis.samples.questions import generate_pairs
from seqvis.storage import locate
from seqvis.text.corpus import read_pairs
from seqvis.text.filters import Tally, question_pair
from seqvis.text.lines import Start
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer
from seqvis.translation.prepare_settings import PrepareSettings
from seqvis.translation.prepare_tokens import usable_pairs

PAIRS, FILTERED = 100_000, 400_000
SAMPLE = 10_000  # pairs that spaCy tokenises in a round


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """Rows for the job and for the question filter."""
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
        pairs = generate_pairs(PAIRS, 3)
    pairs = pairs[:PAIRS]
    for number, end in enumerate(("fr", "en")):
        (folder / f"text.{end}").write_text("".join(f"{pair[number]}\n" for pair in pairs))
    pipes = [spacy.blank("fr").tokenizer, spacy.blank("en").tokenizer]
    checks = {"pairs": len(pairs), "lines tokenised as spaCy does": _same_tokens(pairs, pipes)}

    def tokenise() -> None:
        for number, tokenizer in enumerate(pipes):
            for _ in tokenizer.pipe(pair[number] for pair in pairs[:SAMPLE]):
                pass

    def prepare() -> float:
        command = [
            sys.executable, "-m", "jobs.prepare_corpus",
            "--source", folder / "text.fr", "--target", folder / "text.en", "--source-lang", "fr",
            "--target-lang", "en", "--out", folder / "corpus",
        ]  # fmt: skip
        subprocess.run([str(one) for one in command], check=True, capture_output=True)
        report = json.loads((folder / "corpus" / "report.json").read_text())
        return float(report["pairs_per_second"]) / len(os.sched_getaffinity(0))

    sides_compared = [
        Side("spaCy's tokenizers alone", lambda: rate(SAMPLE, tokenise)),
        Side("prepare_corpus", prepare, 0.85),
    ]
    return compare("preparing a corpus", "pairs/s and core", sides_compared, rounds, checks)


def _same_tokens(pairs: list[tuple[str, str]], pipes: list[object]) -> str:
    same = total = 0
    for number, language in enumerate(("fr", "en")):
        ours = load_tokenizer(TokenizerSettings(language=language, lowercase=False))
        for pair in pairs[:2000]:
            theirs = [token.text for token in pipes[number](pair[number])]  # type: ignore[operator]
            same += ours.tokenize(pair[number]) == [one for one in theirs if one.strip()]
            total += 1
    if same < 0.99 * total:
        raise WrongResultError(f"only {same} of {total} lines are tokenised as spaCy does")
    return f"{same} of {total}"


def _question_filter(folder: Path, rounds: int) -> Row:
    pairs = generate_pairs(20_000, 4)
    paths = [folder / "questions.fr", folder / "questions.en"]
    for number, path in enumerate(paths):
        path.write_text("".join(f"{pair[number]}\n" for pair in pairs) * (FILTERED // len(pairs)))
    lines = [path.read_text().splitlines() for path in paths]
    start = Start(0, 0)
    settings = PrepareSettings(
        source=str(paths[0]), target=str(paths[1]), source_lang="fr", target_lang="en",
        filter="questions", out=str(folder / "none"),
    )  # fmt: skip
    kept = {}

    def bare() -> None:
        found = [question_pair(*pair, "fr", "en") for pair in zip(*lines, strict=True)]
        kept["expressions alone"] = len(found) - found.count(None)

    def ours() -> None:
        places = [locate(str(path)) for path in paths]
        kept["with reading"] = sum(
            len(usable_pairs(table, settings, Tally())[0])
            for table in read_pairs(
                places[0], start, places[1], start, 0, FILTERED, settings.max_line_bytes
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
