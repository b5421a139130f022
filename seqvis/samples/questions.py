"""The sample corpus: pairs of a French and an English question from a bilingual grammar.

`generate_pairs` draws distinct questions, `write_sample` writes them as two aligned files in
the form of giga-fren. A French sentence has exactly one translation. The held-out part differs
from the training part by combination: a tenth of all pairs of words that can meet (a verb and
its subject, its object or its question word; a noun and an adjective) are reserved by a hash.
A held-out question has at least one reserved pair, a training question has none, while each
word by itself occurs in training (of the few rare forms that chance left out, `write_sample`
drops the held-out sentence). So a model that translates the held-out part has learnt
words and grammar, not sentences. The same arguments give the same pairs on every machine.
"""

import hashlib
import random
import re
from collections.abc import Iterator
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
from seqvis.samples.phrases import Combination
from seqvis.storage import locate

Pair = tuple[str, str]

OTHER_SHARE = 0.03  # of the training lines: statements and "how", which a question filter drops


def generate_pairs(count: int, seed: int, held_out: bool = False) -> list[Pair]:
    """`count` pairs (French, English), no French sentence twice, the same for the same seed.

    With `held_out` each has a combination of words that no pair of the training part has.
    """
    return list(islice(_pairs(random.Random(f"questions {seed} {held_out}"), held_out), count))


def write_sample(
    folder: Path, count: int = 40_000, seed: int = 1, held_out_count: int = 2_000
) -> None:
    """Writes train.fr, train.en (`count` lines) and heldout.fr, heldout.en into `folder`.

    Of the training lines, 3 % are statements and "how" questions, for a filter to drop. Every
    word of the held-out part occurs in a "wh" question of the training part; with few training
    lines fewer held-out questions meet this, and their file is shorter. Raises StorageError.
    """
    others = round(OTHER_SHARE * count)
    train = generate_pairs(count - others, seed)
    known = [{word for pair in train for word in words(pair[side])} for side in (0, 1)]
    held_out = [
        pair
        for pair in generate_pairs(held_out_count + held_out_count // 4, seed, held_out=True)
        if all(known[side].issuperset(words(pair[side])) for side in (0, 1))
    ]
    rng = random.Random(f"other lines {seed}")
    train += [_draw_other(rng) for _ in range(others)]
    rng.shuffle(train)
    locate(folder).make_directory()
    for name, pairs in (("train", train), ("heldout", held_out[:held_out_count])):
        for side, language in enumerate(("fr", "en")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (locate(folder) / f"{name}.{language}").write_bytes(text.encode())


def words(sentence: str) -> list[str]:
    """The words of a sentence, without punctuation, apostrophes and hyphens."""
    return re.findall(r"\w+", sentence)


@cache
def is_reserved(combination: Combination) -> bool:
    """Whether this combination of words is kept for the held-out part: one in ten is.

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
    """A line that is no "wh" question: a statement, or a question with "how"."""
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
