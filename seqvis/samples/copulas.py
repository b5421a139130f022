"""Questions of the sample corpus with être and il y a: where, why, whose, of what colour.

Each function draws one question: French, English, and its combinations of words.
"""

import random

from seqvis.samples.clauses import elided, with_pronoun
from seqvis.samples.lexicon import Adjective, load_lexicon
from seqvis.samples.phrases import (
    Combination,
    Phrase,
    bare_phrase,
    contracted,
    demonstrative,
    genitive,
    named_or_kin,
    noun_phrase,
    nouns_of,
    place,
)

Drawn = tuple[str, str, list[Combination]]

_THINGS = frozenset({"thing", "clothing", "readable"})
_COLOURED = frozenset({"thing", "clothing", "fixture"})
_ANYONE = frozenset({"person", "kin", "animal"})
_ETRE = {  # singular, plural
    "present": ("est", "sont"),
    "imperfect": ("était", "étaient"),
    "future": ("sera", "seront"),
}
_TIMES = {
    "present": ("aujourd'hui", "today"),
    "imperfect": ("hier", "yesterday"),
    "future": ("demain", "tomorrow"),
}
_FEATURES = {  # what is asked of things: noun, feminine, English
    "le prix": (False, "price"),
    "la couleur": (True, "color"),
    "la taille": (True, "size"),
    "le poids": (False, "weight"),
}


def draw_copula(rng: random.Random) -> Drawn:
    """Return one random question with être or il y a."""
    kinds = (_where, _where, _why, _why, _colour, _whose, _feature, _name, _existence, _who)
    return rng.choice(kinds)(rng)


def _someone_or(rng: random.Random, classes: frozenset[str]) -> Phrase:
    return named_or_kin(rng) if rng.random() < 0.2 else noun_phrase(rng, classes, determined=True)


def _be(tense: str, subject: Phrase) -> tuple[str, str, str]:
    """Return the French verb, and the English words before and after the subject."""
    verb = _ETRE[tense][subject.plural]
    if tense == "future":
        return verb, "will", " be"
    singular, plural = ("is", "are") if tense == "present" else ("was", "were")
    return verb, plural if subject.plural else singular, ""


def _tense(rng: random.Random) -> tuple[str, tuple[str, str]]:
    """Return a tense, and sometimes a time that goes with it, with a space before it."""
    tense = rng.choice(("present", "present", "imperfect", "future"))
    if rng.random() < 0.3:
        source, target = _TIMES[tense]
        return tense, (f" {source}", f" {target}")
    return tense, ("", "")


def _where(rng: random.Random) -> Drawn:
    subject = _someone_or(rng, _THINGS | _ANYONE)
    tense, (when, when_english) = _tense(rng)
    verb, be, after = _be(tense, subject)
    if rng.random() < 0.7:
        source = f"Où {verb} {subject.french}{when} ?"
    else:
        source = f"Où {subject.french} {with_pronoun(verb, subject)}{when} ?"
    target = f"Where {be} {subject.english}{after}{when_english}?"
    return source, target, [*subject.combinations, ("be", "where", subject.noun)]


def _why(rng: random.Random) -> Drawn:
    subject = _someone_or(rng, _ANYONE | _THINGS)
    adjective = rng.choice(_states(subject))
    tense, (when, when_english) = _tense(rng)
    verb, be, after = _be(tense, subject)
    state = adjective.agree(subject.feminine, subject.plural)
    if rng.random() < 0.7:
        source = f"Pourquoi {subject.french} {with_pronoun(verb, subject)} {state}{when} ?"
    else:
        opening = elided("Pourquoi est-ce que", subject.french)
        source = f"{opening} {verb} {state}{when} ?"
    target = f"Why {be} {subject.english}{after} {adjective.english}{when_english}?"
    return source, target, [*subject.combinations, ("adjective", subject.noun, adjective.masculine)]


def _states(subject: Phrase) -> list[Adjective]:
    """Return the adjectives that can be said of a subject for a time ("sick", "dirty")."""
    lexicon = load_lexicon()
    classes = next((n.classes for n in lexicon.nouns if n.singular == subject.noun), {"person"})
    kinds = set(classes) | ({"person"} if "kin" in classes else set())
    said = {adjective for _, _, adjective in subject.combinations}
    adjectives = [a for a in lexicon.adjectives if "state" in a.classes and a.classes & kinds]
    return [a for a in adjectives if a.masculine not in said]


def _colour(rng: random.Random) -> Drawn:
    subject = _uncoloured(rng)
    tense, _ = _tense(rng)
    verb, be, after = _be(tense, subject)
    return (
        f"De quelle couleur {verb} {subject.french} ?",
        f"What color {be} {subject.english}{after}?",
        [*subject.combinations, ("be", "colour", subject.noun)],
    )


def _uncoloured(rng: random.Random) -> Phrase:
    """Return a thing that is not already said to be red."""
    colours = {a.masculine for a in load_lexicon().adjectives if "colour" in a.classes}
    while True:
        phrase = noun_phrase(rng, _COLOURED, determined=True)
        if not any(adjective in colours for _, _, adjective in phrase.combinations):
            return phrase


def _whose(rng: random.Random) -> Drawn:
    bare = bare_phrase(rng, rng.choice(nouns_of(_THINGS)))
    past = rng.random() < 0.3
    verb = _ETRE["imperfect" if past else "present"][bare.plural]
    be = ("were" if past else "are") if bare.plural else ("was" if past else "is")
    return (
        f"À qui {verb} {demonstrative(bare)} {bare.french} ?",
        f"Whose {bare.english} {be} {'these' if bare.plural else 'this'}?",
        [*bare.combinations, ("be", "whose", bare.noun.singular)],
    )


def _feature(rng: random.Random) -> Drawn:
    feature = rng.choice(tuple(_FEATURES))
    feminine, translation = _FEATURES[feature]
    subject = _uncoloured(rng)
    past = rng.random() < 0.25
    return (
        f"{'Quelle' if feminine else 'Quel'} {'était' if past else 'est'} {feature} "
        f"{contracted('de', subject.french)} ?",
        f"What {'was' if past else 'is'} the {translation} of {subject.english}?",
        [*subject.combinations, ("be", translation, subject.noun)],
    )


def _name(rng: random.Random) -> Drawn:
    subject = noun_phrase(rng, _ANYONE, determined=True)
    plural = subject.plural
    source = "Quels sont les noms" if plural else "Quel est le nom"
    return (
        f"{source} {contracted('de', subject.french)} ?",
        f"What {'are' if plural else 'is'} {genitive(subject)} {'names' if plural else 'name'}?",
        [*subject.combinations, ("be", "name", subject.noun)],
    )


def _who(rng: random.Random) -> Drawn:
    subject = noun_phrase(rng, frozenset({"person", "kin"}), determined=True)
    tense = rng.choice(("present", "imperfect"))
    verb, be, _ = _be(tense, subject)
    return (
        f"Qui {verb} {subject.french} ?",
        f"Who {be} {subject.english}?",
        [*subject.combinations, ("be", "who", subject.noun)],
    )


def _existence(rng: random.Random) -> Drawn:
    """Draw "Pourquoi y a-t-il un chat dans la cuisine ?": il y a takes what is not known yet."""
    while True:
        subject = noun_phrase(rng, _THINGS | {"animal", "person"})
        if not subject.definite:
            break
    spot = place(rng, motion=False)
    past = rng.random() < 0.35
    be = ("were" if past else "are") if subject.plural else ("was" if past else "is")
    return (
        f"Pourquoi y {'avait-il' if past else 'a-t-il'} {subject.french} {spot.french} ?",
        f"Why {be} there {subject.english} {spot.english}?",
        [*subject.combinations, *spot.combinations, ("be", "there", subject.noun)],
    )
