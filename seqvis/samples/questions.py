"""The sample corpus: pairs of a French and an English question from a bilingual grammar.

`generate_pairs` draws distinct questions, and `write_sample` writes them as two aligned files in
the form of giga-fren. A French sentence has exactly one translation. The held-out part differs from
the training part by its combinations: a hash reserves a tenth of all pairs of words that can meet
(a verb and its subject, its object or its question word; a noun and an adjective). A held-out
question has at least one reserved pair and a training question has none, while each word by itself
occurs in training (where chance left out a rare form, `write_sample` drops the held-out sentence).
Names are invented, so that a model learns to copy names. A model that translates the held-out part
has therefore learnt words and grammar, not sentences. The same arguments give the same pairs on
every machine.
"""

import hashlib
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from seqvis.samples.asking import draw_clause, draw_question
from seqvis.samples.clauses import (
    COMPLEX,
    SUBJECT,
    Clause,
    english,
    english_subject_question,
    french,
)
from seqvis.samples.lexicon import load_lexicon
from seqvis.samples.phrases import NAMES, Combination
from seqvis.storage import locate

Pair = tuple[str, str]

_NEW_NAMES = (
    "Zbigniew", "Ngozi", "Siobhán", "McAllister", "Xiomara", "Bjørn", "Priya", "Tchaïkovski",
    "Nguyễn", "LaToya", "Kowalczyk", "Jean-Loup", "Wolfgang", "Beyoncé", "Hiroshi", "Szymborska",
)  # fmt: skip
OTHER_SHARE = 0.03  # of the training lines: statements and "how", which a question filter drops


def generate_pairs(count: int, seed: int, held_out: bool = False) -> list[Pair]:
    """Return `count` pairs (French, English), no French sentence twice, the same for the same seed.

    With `held_out` each has a combination of words that no pair of the training part has.
    """
    return list(islice(_pairs(random.Random(f"questions {seed} {held_out}"), held_out), count))


def write_sample(
    folder: Path, count: int = 40_000, seed: int = 1, held_out_count: int = 2_000
) -> None:
    """Write three pairs of files into `folder`: train.fr and train.en (`count` lines), heldout.*
    and typed.* (held-out questions as people type them, see `typed_questions`).

    Of the training lines, 3 % are statements and "how" questions, for a filter to drop. Every
    word of the held-out part occurs in two "wh" questions of the training part; with few training
    lines fewer held-out questions meet this, and their file is shorter. Raises StorageError.
    """
    others = round(OTHER_SHARE * count)
    train = generate_pairs(count - others, seed)
    seen = [Counter(word for pair in train for word in words(pair[side])) for side in (0, 1)]
    held_out = [
        pair
        for pair in generate_pairs(2 * held_out_count, seed, held_out=True)
        if all(seen[side][word] > 1 for side in (0, 1) for word in words(pair[side]))
    ]
    rng = random.Random(f"other lines {seed}")
    train += [_draw_other(rng) for _ in range(others)]
    rng.shuffle(train)
    locate(folder).make_directory()
    held_out = held_out[:held_out_count]
    typed = [pair for pairs in typed_questions(held_out).values() for pair in pairs]
    for name, pairs in (("train", train), ("heldout", held_out), ("typed", typed)):
        for side, language in enumerate(("fr", "en")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (locate(folder) / f"{name}.{language}").write_bytes(text.encode())


def typed_questions(held_out: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Return questions of the held-out part as people type them, by what is different about them.

    Typographic apostrophes and spaces, capitals throughout, accents in two characters, and names
    that no training question has; the translation of a name is the name.
    """
    short = sorted(held_out, key=lambda pair: len(pair[0]))[: len(held_out) // 2]
    elided = [pair for pair in short if "'" in pair[0]]
    accented = [pair for pair in short if unicodedata.normalize("NFD", pair[0]) != pair[0]]
    known = re.compile(rf"\b({'|'.join(NAMES)})\b")
    named = [
        pair
        for pair in short
        if len(known.findall(pair[0])) == 1 and not re.search(r"(d'|que |qu')[AÉ]", pair[0])
    ]
    return {
        "apostrophes": [
            (source.replace("'", "’").replace(" ?", "\u00a0?"), target)
            for source, target in _spread(elided)
        ],
        "capitals": [(source.upper(), target) for source, target in _spread(short)],
        "accents": [
            (unicodedata.normalize("NFD", source), target) for source, target in _spread(accented)
        ],
        "names": [
            (known.sub(name, source), known.sub(name, target))
            for name, (source, target) in zip(_NEW_NAMES, _spread(named), strict=False)
        ],
    }


def _spread(pairs: Sequence[Pair]) -> list[Pair]:
    """Return as many pairs as there are new names, from all parts of the list."""
    return list(pairs[:: max(1, len(pairs) // len(_NEW_NAMES))])[: len(_NEW_NAMES)]


def words(sentence: str) -> list[str]:
    """Return the words of a sentence, without punctuation, apostrophes and hyphens."""
    return re.findall(r"\w+", sentence)


@cache
def is_reserved(combination: Combination) -> bool:
    """Tell whether this combination of words is kept for the held-out part: one in ten is.

    None is of a question that leaves a preposition behind ("who ... to?"): where it goes in
    English is learnt verb by verb, and "parler" has no other verb to be learnt from.
    """
    if combination[1] in ("to whom", "with whom"):
        return False
    digest = hashlib.blake2b("\t".join(combination).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10 == 0


def _pairs(rng: random.Random, held_out: bool) -> Iterator[Pair]:
    seen: set[str] = set()
    while True:
        source, target, combinations = draw_question(rng)
        if source not in seen and any(map(is_reserved, combinations)) == held_out:
            seen.add(source)
            yield source, target


def _draw_other(rng: random.Random) -> Pair:
    """Return a line that is no "wh" question: a statement, or a question with "how"."""
    while True:
        verb = rng.choice(load_lexicon().verbs)
        clause = draw_clause(rng, verb)
        if any(map(is_reserved, clause.combinations("how"))):
            continue
        if rng.random() < 0.5:
            return french(clause, "Comment", COMPLEX), english(clause, "How")
        if not clause.subject.pronoun:
            return _statement(clause)


def _statement(clause: Clause) -> Pair:
    subject = clause.subject
    source = french(clause, subject.french, SUBJECT).removesuffix(" ?") + "."
    target = english_subject_question(clause, subject.english).removesuffix("?") + "."
    return source[0].upper() + source[1:], target[0].upper() + target[1:]
