"""The questions of the sample corpus: which can be asked with a verb, and how each is worded.

`draw_question` draws one at random: French, English, and its combinations of words. If French
leaves two readings open, only one of them is ever drawn: "Qui voit le chat ?" always asks who sees;
the other question is "Qui le chat voit-il ?".
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from seqvis.samples.clauses import (
    COMPLEX,
    EST_CE_QUE,
    SIMPLE,
    SUBJECT,
    Clause,
    english,
    english_subject_question,
    french,
)
from seqvis.samples.copulas import draw_copula
from seqvis.samples.lexicon import FUTURE, IMPERFECT, PAST, PRESENT, Noun, Verb, load_lexicon
from seqvis.samples.phrases import (
    PRONOUNS,
    Combination,
    Phrase,
    bare_phrase,
    named_or_kin,
    noun_phrase,
    nouns_of,
    place,
)

Drawn = tuple[str, str, list[Combination]]

_PEOPLE = frozenset({"person", "kin"})
_ANIMATE = frozenset({"person", "kin", "animal"})

_TIMES = {
    PRESENT: (("aujourd'hui", "today"), ("chaque jour", "every day"), ("le dimanche", "on Sundays"),
              ("le soir", "in the evening"), ("chaque semaine", "every week")),
    PAST: (("hier", "yesterday"), ("hier soir", "last night"), ("ce matin", "this morning"),
           ("la semaine dernière", "last week"), ("l'année dernière", "last year")),
    FUTURE: (("demain", "tomorrow"), ("demain matin", "tomorrow morning"), ("ce soir", "tonight"),
             ("la semaine prochaine", "next week"), ("l'année prochaine", "next year")),
    IMPERFECT: (("hier", "yesterday"), ("hier soir", "last night"), ("ce matin", "this morning"),
                ("à midi", "at noon")),
    "modal": (("aujourd'hui", "today"), ("demain", "tomorrow"), ("ce soir", "tonight")),
}  # fmt: skip
_DAYS = frozenset({"aujourd'hui", "hier", "demain", "le dimanche", "chaque jour"})


def draw_question(rng: random.Random) -> Drawn:
    """Return one random question: French, English, and the combinations of words in it."""
    if rng.random() < 0.15:
        return draw_copula(rng)
    verb = rng.choice(load_lexicon().verbs)
    question = rng.choice(_questions_of(verb))
    return _ASK[question](rng, verb)


@cache
def _questions_of(verb: Verb) -> tuple[str, ...]:
    """Return the questions that can be asked with a verb; a repeated one is asked more often."""
    questions = ["why", "why", "who", "which subject"]
    if verb.objects - _ANIMATE:
        questions += ["which object", "which object"]
    if verb.objects - _ANIMATE - {"vehicle"}:
        questions += ["what", "what"]
    if verb.objects & _PEOPLE:
        questions += ["who object"]
    if "placed" in verb.flags or not verb.flags & {"stative", "unplaced"}:
        questions += ["where", "where"]
    if "stative" not in verb.flags:
        questions += ["when", "what time"]
    if "recipient" in verb.flags:
        questions += ["to whom", "to whom"]
    if not verb.objects and "vehicle" not in verb.subjects and "alone" not in verb.flags:
        questions += ["with whom"]
    return tuple(questions)


def draw_clause(
    rng: random.Random,
    verb: Verb,
    *,
    subject: Phrase | None = None,
    with_object: bool = True,
    with_place: bool = True,
    with_recipient: bool = True,
    times: Callable[[str], bool] = lambda french: True,
) -> Clause:
    """Return a random clause of the verb; the flags say which complements it may have."""
    modal, tense = "", PRESENT
    if "timeless" not in verb.flags:
        draw = rng.random()
        if draw < 0.18 and "vehicle" not in verb.subjects and "unwilled" not in verb.flags:
            modal = rng.choice(("vouloir", "pouvoir", "devoir"))
        else:
            tenses = (PRESENT, PRESENT, PAST, PAST, FUTURE, FUTURE, IMPERFECT)
            tense = rng.choice(tenses[:-1] if "stative" in verb.flags else tenses)
    if subject is None:
        subject = _subject(rng, verb, pronouns=tense != IMPERFECT)
    complement = None
    if with_object and verb.objects:
        complement = noun_phrase(rng, verb.objects, determined="timeless" in verb.flags)
        while complement.noun == subject.noun:
            complement = noun_phrase(rng, verb.objects, determined="timeless" in verb.flags)
    recipient = None
    if with_recipient and "recipient" in verb.flags and rng.random() < 0.5:
        recipient = _someone(rng)
    spot = None
    # A place after "envoyer une lettre" would be read as where it is sent: "à la banque".
    settled = verb.flags & {"timeless", "unplaced", "recipient"}
    if with_place and ("placed" in verb.flags or (not settled and rng.random() < 0.25)):
        spot = place(rng, motion="motion" in verb.flags)
    time = ("", "")
    lasting = "timeless" in verb.flags or verb.flags >= {"stative", "placed"}  # "likes", "lives"
    if not lasting and rng.random() < 0.28:
        allowed = [pair for pair in _TIMES["modal" if modal else tense] if times(pair[0])]
        time = rng.choice(allowed) if allowed else time
    return Clause(verb, tense, subject, complement, recipient, spot, time, modal)


def _subject(rng: random.Random, verb: Verb, pronouns: bool) -> Phrase:
    draw = rng.random()
    if draw < 0.25 and pronouns:
        return rng.choice(PRONOUNS)
    if draw < 0.42:
        return named_or_kin(rng)
    return noun_phrase(rng, verb.subjects, determined=True)


def _someone(rng: random.Random) -> Phrase:
    if rng.random() < 0.4:
        return named_or_kin(rng)
    return noun_phrase(rng, frozenset({"person", "kin"}), determined=True)


def _negate(rng: random.Random, clause: Clause) -> Clause:
    """Return the clause or its negation, where no "pas un" would have to become "pas de"."""
    determined = clause.object is None or clause.object.definite
    if determined and clause.modal != "devoir" and rng.random() < 0.2:
        return replace(clause, negated=True)
    return clause


def _form(rng: random.Random, clause: Clause, simple: bool) -> str:
    """Return a way to ask; simple inversion where nothing but a time follows the subject."""
    short = clause.object is None and clause.recipient is None and clause.place is None
    if simple and short and not clause.subject.pronoun and rng.random() < 0.6:
        return SIMPLE
    return COMPLEX if rng.random() < 0.7 else EST_CE_QUE


def _ask_adverb(word: str, translation: str, kind: str) -> Callable[[random.Random, Verb], Drawn]:
    """Return a question for the place, the time or the reason."""

    def ask(rng: random.Random, verb: Verb) -> Drawn:
        days_only = kind in ("when", "what time")
        clause = draw_clause(
            rng,
            verb,
            with_place=kind != "where",
            times=(lambda time: kind == "what time" and time in _DAYS) if days_only else bool,
        )
        if kind == "why":
            clause = _negate(rng, clause)
        form = _form(rng, clause, simple=kind != "why")
        return (
            french(clause, word, form),
            english(clause, translation),
            clause.combinations(kind),
        )

    return ask


def _ask_companion(word: str, gap: str, kind: str) -> Callable[[random.Random, Verb], Drawn]:
    """À qui and avec qui, whose preposition English leaves at the end."""

    def ask(rng: random.Random, verb: Verb) -> Drawn:
        clause = draw_clause(rng, verb, with_recipient=False, with_place=kind == "with whom")
        form = _form(rng, clause, simple=True)
        return (
            french(clause, word, form),
            english(clause, "Who", gap=gap),
            clause.combinations(kind),
        )

    return ask


def _ask_what(rng: random.Random, verb: Verb) -> Drawn:
    clause = draw_clause(rng, verb, with_object=False)
    form = EST_CE_QUE if rng.random() < 0.4 else COMPLEX if clause.subject.pronoun else SIMPLE
    if form == SIMPLE and (clause.place or clause.recipient):
        form = EST_CE_QUE  # "Que mange le chat dans la cuisine ?" would be read twice
    return french(clause, "Que", form), english(clause, "What"), clause.combinations("what")


def _ask_whom(rng: random.Random, verb: Verb) -> Drawn:
    # Never simple inversion: "Qui voit le chat ?" asks who sees the cat.
    clause = draw_clause(rng, verb, with_object=False)
    form = COMPLEX if rng.random() < 0.6 else EST_CE_QUE
    return french(clause, "Qui", form), english(clause, "Who"), clause.combinations("who object")


def _ask_which_object(rng: random.Random, verb: Verb) -> Drawn:
    clause = draw_clause(rng, verb, with_object=False)
    fronted, question, translation = _which(rng, rng.choice(nouns_of(verb.objects - _ANIMATE)))
    form = _form(rng, clause, simple=not clause.modal)
    clause = replace(clause, object=fronted)
    return (
        french(clause, question, form, fronted),
        english(clause, translation, fronted),
        clause.combinations("which object"),
    )


def _which(rng: random.Random, noun: Noun) -> tuple[Phrase, str, str]:
    bare = bare_phrase(rng, noun)
    word = ("Quelle" if noun.feminine else "Quel") + ("s" if bare.plural else "")
    question, translation = f"{word} {bare.french}", f"Which {bare.english}"
    return bare.phrase(question, translation), question, translation


def _ask_who(rng: random.Random, verb: Verb) -> Drawn:
    clause = _negate(rng, draw_clause(rng, verb, subject=Phrase("qui", "who")))
    question = "Qui" if rng.random() < 0.8 else "Qui est-ce qui"
    return (
        french(clause, question, SUBJECT),
        english_subject_question(clause, "Who"),
        clause.combinations("who"),
    )


def _ask_which_subject(rng: random.Random, verb: Verb) -> Drawn:
    noun = rng.choice(nouns_of(verb.subjects - {"kin"}))
    subject, question, translation = _which(rng, noun)
    clause = draw_clause(rng, verb, subject=subject)
    return (
        french(clause, question, SUBJECT),
        english_subject_question(clause, translation),
        clause.combinations("which subject"),
    )


_ASK: dict[str, Callable[[random.Random, Verb], Drawn]] = {
    "where": _ask_adverb("Où", "Where", "where"),
    "when": _ask_adverb("Quand", "When", "when"),
    "why": _ask_adverb("Pourquoi", "Why", "why"),
    "what time": _ask_adverb("À quelle heure", "What time", "what time"),
    "to whom": _ask_companion("À qui", "to", "to whom"),
    "with whom": _ask_companion("Avec qui", "with", "with whom"),
    "what": _ask_what,
    "who object": _ask_whom,
    "which object": _ask_which_object,
    "who": _ask_who,
    "which subject": _ask_which_subject,
}
