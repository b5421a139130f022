"""Noun phrases and places of the sample corpus, in French and English at once.

A `Phrase` is a noun with its determiner, adjectives and possessor, agreed and elided in French, and
put in English order ("la vieille voiture rouge du médecin", "the doctor's old red car"). Only
French words with one English meaning are used; adjectives whose sense depends on their place are
left out.
"""

import random
from dataclasses import dataclass, replace
from functools import cache

from seqvis.samples.lexicon import (
    PLURAL,
    SINGULAR,
    Adjective,
    Noun,
    begins_with_vowel,
    load_lexicon,
)

# A combination of words that may be reserved for the held-out part: its kind and its words.
Combination = tuple[str, str, str]

NAMES = {
    "Marie": True, "Paul": False, "Anne": True, "Pierre": False, "Julie": True, "Thomas": False,
    "Sophie": True, "Antoine": False, "Claire": True, "Marc": False, "Élise": True, "Émile": False,
}  # fmt: skip
CITIES = ("Paris", "Lyon", "Rome", "Berlin", "Madrid", "Toulouse", "Amsterdam", "Chicago")
# Parts of invented names, each seen about once: from them a model learns to copy a name.
_NAME_STARTS = (
    "Al", "Bor", "Bran", "Cas", "Dar", "Del", "Drag", "Ek", "Fen", "Gor", "Hel", "Ib", "Jar", "Kal",
    "Kol", "Lor", "Mal", "Mir", "Nad", "Nil", "Or", "Osk", "Pav", "Rad", "Sam", "Stan", "Tam",
    "Tor", "Ul", "Vas", "Wil", "Jon", "Zel", "Zor", "Él", "Év",
)  # fmt: skip
_NAME_MIDDLES = (
    "a", "e", "i", "o", "u", "ani", "ebi", "imo", "olu", "ande", "ere", "isti", "omo", "uva",
    "abri", "elo", "igo", "ostre",
)  # fmt: skip
_NAME_ENDS = {
    False: ("n", "k", "s", "r", "mir", "slav", "ton", "rick", "dor", "var", "niew", "bert"),
    True: ("na", "ka", "ra", "lia", "nia", "sha", "dra", "line", "vette", "rine", "mila", "tta"),
}
# No son/sa, which could mean his or her.
_POSSESSIVES = {  # masculine, feminine, plural -> English
    ("mon", "ma", "mes"): "my",
    ("ton", "ta", "tes"): "your",
    ("notre", "notre", "nos"): "our",
    ("votre", "votre", "vos"): "your",
    ("leur", "leur", "leurs"): "their",
}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase. `noun` identifies it in combinations of words ("" for a pronoun)."""

    french: str
    english: str
    person: int = SINGULAR
    feminine: bool = False
    noun: str = ""
    pronoun: str = ""  # the French pronoun, if the phrase is one: it follows the verb in questions
    definite: bool = True
    combinations: tuple[Combination, ...] = ()

    @property
    def plural(self) -> bool:
        return self.person not in (SINGULAR, 0)

    @property
    def english_third_singular(self) -> bool:
        return self.person == SINGULAR


PRONOUNS = (
    Phrase("tu", "you", 0, pronoun="tu"),
    Phrase("il", "he", 1, pronoun="il"),
    Phrase("elle", "she", 1, feminine=True, pronoun="elle"),
    Phrase("nous", "we", 2, pronoun="nous"),
    Phrase("vous", "you", 3, pronoun="vous"),
    Phrase("ils", "they", 4, pronoun="ils"),
    Phrase("elles", "they", 4, feminine=True, pronoun="elles"),
)


@cache
def nouns_of(classes: frozenset[str]) -> tuple[Noun, ...]:
    return tuple(noun for noun in load_lexicon().nouns if noun.classes & classes)


@cache
def adjectives_of(noun: Noun, precedes: bool) -> tuple[Adjective, ...]:
    if precedes and "unaged" in noun.classes:
        return ()  # une vieille fille is no old daughter
    kinds = noun.classes | ({"person"} if "kin" in noun.classes else set())
    return tuple(
        adjective
        for adjective in load_lexicon().adjectives
        if adjective.classes & kinds and adjective.precedes == precedes
    )


def noun_phrase(rng: random.Random, classes: frozenset[str], determined: bool = False) -> Phrase:
    """Return a random phrase of a noun of these classes; `determined` excludes "un", "des"."""
    return phrase_of(rng, rng.choice(nouns_of(classes)), determined)


def phrase_of(rng: random.Random, noun: Noun, determined: bool = False) -> Phrase:
    """Return a random phrase of this noun: determiner, number, up to two adjectives, possessor."""
    bare = _with_adjectives(rng, noun, plural=bool(noun.plural) and rng.random() < 0.3)
    draw = rng.random()
    if "person" in noun.classes:
        draw *= 0.74  # nobody's queen, nobody's doctors
    if "kin" in noun.classes:
        return _possessive(rng, bare) if draw < 0.5 else _possessed(rng, bare)
    if draw < 0.30 and not determined:
        return _indefinite(bare)
    if draw < 0.62:
        return _counted(rng, bare) if bare.plural and rng.random() < 0.2 else _definite(bare)
    if draw < 0.74:
        return _demonstrative(bare)
    return _possessive(rng, bare) if draw < 0.88 else _possessed(rng, bare)


def named_or_kin(rng: random.Random) -> Phrase:
    """Return a person by name, or by family."""
    if rng.random() < 0.6:
        return named(rng)
    return noun_phrase(rng, frozenset({"kin"}))


def named(rng: random.Random) -> Phrase:
    """Return a person by name: mostly one of `NAMES`, else one that is invented."""
    if rng.random() < 0.6:
        name = rng.choice(tuple(NAMES))
        return Phrase(name, name, feminine=NAMES[name], noun=name)
    feminine = rng.random() < 0.5
    ends = _NAME_ENDS[feminine]
    name = rng.choice(_NAME_STARTS) + rng.choice(_NAME_MIDDLES) + rng.choice(ends)
    return Phrase(name, name, feminine=feminine, noun=name)


def bare_phrase(rng: random.Random, noun: Noun) -> "Bare":
    """Return the noun with its adjectives, as it follows "quel" and "which"."""
    return _with_adjectives(rng, noun, plural=bool(noun.plural) and rng.random() < 0.35)


@dataclass(frozen=True)
class Bare:
    """A noun with adjectives and number, still without its determiner."""

    noun: Noun
    plural: bool
    french: str
    english: str
    has_adjective_before: bool
    combinations: tuple[Combination, ...]

    @property
    def elides(self) -> bool:
        return begins_with_vowel(self.french) if self.has_adjective_before else self.noun.elides

    def phrase(self, french: str, english: str, definite: bool = True) -> Phrase:
        return Phrase(
            french,
            english,
            person=PLURAL if self.plural else SINGULAR,
            feminine=self.noun.feminine,
            noun=self.noun.singular,
            definite=definite,
            combinations=self.combinations,
        )


def _with_adjectives(rng: random.Random, noun: Noun, plural: bool) -> Bare:
    chosen: list[Adjective] = []
    for precedes, share in ((True, 0.25), (False, 0.3)):
        candidates = adjectives_of(noun, precedes)
        if candidates and rng.random() < share:
            chosen.append(rng.choice(candidates))
    if [adjective.masculine for adjective in chosen] == ["vieux", "moderne"]:
        chosen.pop()
    french = noun.plural if plural else noun.singular
    elides = noun.elides
    for adjective in chosen:
        form = adjective.agree(noun.feminine, plural)
        if not adjective.precedes:
            french = f"{french} {form}"
        elif elides and not plural and not noun.feminine:
            french = f"{adjective.before_vowel} {french}"
        else:
            french = f"{form} {french}"
    words = [
        adjective.english for adjective in sorted(chosen, key=lambda adjective: adjective.order)
    ]
    words.append(noun.english_plural if plural else noun.english)
    return Bare(
        noun,
        plural,
        french,
        " ".join(words),
        bool(chosen) and chosen[0].precedes,
        tuple(("adjective", noun.singular, adjective.masculine) for adjective in chosen),
    )


def _definite(bare: Bare) -> Phrase:
    return bare.phrase(_with_article(bare), f"the {bare.english}")


def _counted(rng: random.Random, bare: Bare) -> Phrase:
    """ "les 347 chats", "the 347 cats": a number is copied as a name is."""
    number = rng.randint(2, 2999)
    return bare.phrase(f"les {number} {bare.french}", f"the {number} {bare.english}")


def _with_article(bare: Bare) -> str:
    if bare.plural:
        return f"les {bare.french}"
    if bare.elides:
        return f"l'{bare.french}"
    return f"{'la' if bare.noun.feminine else 'le'} {bare.french}"


def _indefinite(bare: Bare) -> Phrase:
    """Return "a red car", "red cars", "fresh milk"; before a plural adjective des becomes de."""
    if bare.plural:
        if not bare.has_adjective_before:
            return bare.phrase(f"des {bare.french}", bare.english, definite=False)
        article = "d'" if bare.elides else "de "
        return bare.phrase(article + bare.french, bare.english, definite=False)
    if not bare.noun.plural:
        french = contracted("de", _with_article(bare))
        return bare.phrase(french, bare.english, definite=False)
    article = "une" if bare.noun.feminine else "un"
    english = f"{'an' if bare.english[0].lower() in 'aeiou' else 'a'} {bare.english}"
    return bare.phrase(f"{article} {bare.french}", english, definite=False)


def _demonstrative(bare: Bare) -> Phrase:
    return bare.phrase(
        f"{demonstrative(bare)} {bare.french}",
        f"{'these' if bare.plural else 'this'} {bare.english}",
    )


def demonstrative(bare: Bare) -> str:
    if bare.plural:
        return "ces"
    if bare.noun.feminine:
        return "cette"
    return "cet" if bare.elides else "ce"


def _possessive(rng: random.Random, bare: Bare) -> Phrase:
    forms = rng.choice(tuple(_POSSESSIVES))
    masculine, feminine, plural = forms
    word = plural if bare.plural else masculine
    if bare.noun.feminine and not bare.plural and not bare.elides:
        word = feminine  # but mon amie, ton écharpe
    return bare.phrase(f"{word} {bare.french}", f"{_POSSESSIVES[forms]} {bare.english}")


def _possessed(rng: random.Random, bare: Bare) -> Phrase:
    """ "la voiture du médecin", "the doctor's car". The possessor has no possessor itself."""
    draw = rng.random()
    if draw < 0.45:
        owner = named(rng)
    else:
        kin = draw < 0.65
        noun = rng.choice(nouns_of(frozenset({"kin" if kin else "person"})))
        plural = bool(noun.plural) and rng.random() < 0.2
        word = Bare(
            noun,
            plural,
            noun.plural if plural else noun.singular,
            noun.english_plural if plural else noun.english,
            False,
            (),
        )
        owner = _possessive(rng, word) if kin else _definite(word)
    french = f"{_with_article(bare)} {contracted('de', owner.french)}"
    return bare.phrase(french, f"{genitive(owner)} {bare.english}")


def genitive(owner: Phrase) -> str:
    """ "Thomas's", "the doctor's", "the doctors'", "the children's"."""
    return owner.english + ("'" if owner.plural and owner.english.endswith("s") else "'s")


def contracted(preposition: str, french: str) -> str:
    """à or de before a phrase: "du chat", "des chats", "au parc", "d'Anne", "à l'hôtel"."""
    contractions = {"de": {"le": "du", "les": "des"}, "à": {"le": "au", "les": "aux"}}
    first, _, rest = french.partition(" ")
    if rest and first in contractions[preposition]:
        return f"{contractions[preposition][first]} {rest}"
    if preposition == "de" and begins_with_vowel(french):
        return f"d'{french}"
    return f"{preposition} {french}"


def place(rng: random.Random, motion: bool) -> Phrase:
    """Return where something happens, or with `motion` where somebody goes: "au parc"."""
    draw = rng.random()
    if draw < 0.2:
        city = rng.choice(CITIES)
        return Phrase(f"à {city}", f"{'to' if motion else 'in'} {city}")
    if draw < 0.65 or motion:
        spot = _definite_place(rng, "place")
        preposition = "to" if motion else "at"
        return replace(
            spot, french=contracted("à", spot.french), english=f"{preposition} {spot.english}"
        )
    if draw < 0.85:
        spot = _definite_place(rng, "room")
        return replace(spot, french=f"dans {spot.french}", english=f"in {spot.english}")
    spot = _definite_place(rng, "place" if draw < 0.95 else "room")
    if draw < 0.9:
        return replace(spot, french=f"devant {spot.french}", english=f"in front of {spot.english}")
    near = f"près {contracted('de', spot.french)}"
    return replace(spot, french=near, english=f"near {spot.english}")


def _definite_place(rng: random.Random, kind: str) -> Phrase:
    noun = rng.choice(nouns_of(frozenset({kind})))
    bare = _with_adjectives(rng, noun, plural=False)
    draw = rng.random()
    if kind == "room" and draw < 0.2:
        return _possessive(rng, bare)
    return _demonstrative(bare) if draw > 0.92 else _definite(bare)
