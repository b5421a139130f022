"""The words of the sample corpus: nouns, adjectives and verbs with all their forms.

The words are in three tab-separated tables next to this file, one row for each word, with forms
spelt out wherever French or English is irregular. `load_lexicon` reads the tables once. Verbs can
conjugate themselves in both languages.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

# Person and number as the rows of a conjugation table: tu, il/elle, nous, vous, ils/elles.
TU, SINGULAR, NOUS, VOUS, PLURAL = range(5)
PRESENT, PAST, FUTURE, IMPERFECT = "present", "past", "future", "imperfect"

_ER_ENDINGS = ("es", "e", "ons", "ez", "ent")
_FUTURE_ENDINGS = ("as", "a", "ons", "ez", "ont")
_IMPERFECT_ENDINGS = ("ais", "ait", "ions", "iez", "aient")
_AVOIR = ("as", "a", "avons", "avez", "ont")
_ETRE = ("es", "est", "sommes", "êtes", "sont")


@dataclass(frozen=True)
class Noun:
    """A noun in both languages; its key in combinations of words is `singular`."""

    singular: str
    plural: str  # "" for what is not counted, as milk
    feminine: bool
    elides: bool
    english: str
    english_plural: str
    classes: frozenset[str]


@dataclass(frozen=True)
class Adjective:
    """An adjective: its four French forms, the one before a vowel (bel, vieil), its English."""

    masculine: str
    masculine_plural: str
    feminine: str
    feminine_plural: str
    before_vowel: str
    precedes: bool
    english: str
    order: int  # in English: opinion 1, size 2, condition 3, age 4, colour 5, origin 6
    classes: frozenset[str]

    def agree(self, feminine: bool, plural: bool) -> str:
        if feminine:
            return self.feminine_plural if plural else self.feminine
        return self.masculine_plural if plural else self.masculine


@dataclass(frozen=True)
class Verb:
    """A verb in both languages, and the classes of nouns it takes as subject and object.

    Flags: `recipient` (to whom), `motion` (à is a destination), `placed` (a place is needed),
    `unplaced` (takes none), `stative` (has no progressive), `timeless` (said in the present only),
    `unwilled` (nobody wants or must), `alone` (not done with somebody).
    """

    infinitive: str
    present: tuple[str, ...]
    participle: str
    future_stem: str
    takes_etre: bool
    english: str
    english_past: str
    gerund: str
    particle: str  # "for" in "look for"
    subjects: frozenset[str]
    objects: frozenset[str]
    flags: frozenset[str]

    def french(self, tense: str, person: int) -> str:
        """Return the conjugated form; in the past (passé composé) that of the auxiliary."""
        if tense == PRESENT:
            return self.present[person]
        if tense == PAST:
            return (_ETRE if self.takes_etre else _AVOIR)[person]
        if tense == FUTURE:
            return self.future_stem + _FUTURE_ENDINGS[person]
        return self.present[NOUS].removesuffix("ons") + _IMPERFECT_ENDINGS[person]

    def agreed_participle(self, feminine: bool, plural: bool) -> str:
        agreed = self.participle + ("e" if feminine else "")
        return agreed + ("s" if plural and not agreed.endswith("s") else "")

    def english_third_person(self) -> str:
        """ "goes", "studies", "watches", "eats": the form of he, she and it."""
        word = self.english
        if word.endswith(("s", "x", "z", "ch", "sh", "o")):
            return word + "es"
        if word.endswith("y") and word[-2] not in "aeiou":
            return word[:-1] + "ies"
        return word + "s"


@dataclass(frozen=True)
class Lexicon:
    nouns: tuple[Noun, ...]
    adjectives: tuple[Adjective, ...]
    verbs: tuple[Verb, ...]


@cache
def load_lexicon() -> Lexicon:
    """Return all words of the tables beside this file."""
    return Lexicon(
        tuple(_noun(row) for row in _rows("nouns.tsv")),
        tuple(_adjective(row) for row in _rows("adjectives.tsv")),
        tuple(_verb(row) for row in _rows("verbs.tsv")),
    )


def begins_with_vowel(word: str) -> bool:
    """Tell whether le, de, que ... lose their vowel before a word that has no aspirated h."""
    return word[0].lower() in "aeiouhàâéèêîôûœ"


def _rows(name: str) -> list[dict[str, str]]:
    table = resources.files("seqvis.samples").joinpath(name).read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{key: "" if value == "-" else value for key, value in row.items()} for row in rows]


def _noun(row: dict[str, str]) -> Noun:
    return Noun(
        singular=row["singular"],
        plural=row["plural"],
        feminine=row["gender"].startswith("f"),
        # `m*` marks an aspirated h ("le hibou", not "l'hibou"), which spelling does not show.
        elides=begins_with_vowel(row["singular"]) and not row["gender"].endswith("*"),
        english=row["english"],
        english_plural=row["english_plural"],
        classes=frozenset(row["classes"].split()),
    )


def _adjective(row: dict[str, str]) -> Adjective:
    return Adjective(
        masculine=row["masculine"],
        masculine_plural=row["masculine_plural"],
        feminine=row["feminine"],
        feminine_plural=row["feminine_plural"],
        before_vowel=row["before_vowel"] or row["masculine"],
        precedes=row["position"] == "before",
        english=row["english"],
        order=int(row["order"]),
        classes=frozenset(row["classes"].split()),
    )


def _verb(row: dict[str, str]) -> Verb:
    infinitive = row["infinitive"]
    english = row["english"]
    return Verb(
        infinitive=infinitive,
        present=tuple(row["present"].split()) or _regular_present(infinitive),
        participle=row["participle"],
        future_stem=row["future_stem"] or infinitive,
        takes_etre=row["auxiliary"] == "e",
        english=english,
        english_past=row["past"],
        gerund=row["gerund"] or english.removesuffix("e") + "ing",
        particle=row["particle"],
        subjects=frozenset(row["subjects"].split()),
        objects=frozenset(row["objects"].split()),
        flags=frozenset(row["flags"].split()),
    )


def _regular_present(infinitive: str) -> tuple[str, ...]:
    stem = infinitive.removesuffix("er")
    softened = {"g": stem + "e", "c": stem[:-1] + "ç"}.get(stem[-1], stem)  # mangeons, lançons
    return tuple((softened if end == "ons" else stem) + end for end in _ER_ENDINGS)
