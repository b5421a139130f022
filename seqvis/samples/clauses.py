"""Clauses of the sample corpus: one meaning, asked as a question in French and in English.

A `Clause` is a verb in a tense with its subject and complements; `french` and `english` ask it.
French has three ways to ask (complex inversion, simple inversion, est-ce que), English has
do-support.
"""

from dataclasses import dataclass

from seqvis.samples.lexicon import FUTURE, PAST, PRESENT, Verb, begins_with_vowel
from seqvis.samples.phrases import Combination, Phrase, contracted

COMPLEX, SIMPLE, EST_CE_QUE, SUBJECT = "complex", "simple", "est-ce que", "subject"

# French forms for tu, il, nous, vous, ils; the English auxiliary ("" takes do: "wants to").
MODALS = {
    "vouloir": (("veux", "veut", "voulons", "voulez", "veulent"), ""),
    "pouvoir": (("peux", "peut", "pouvons", "pouvez", "peuvent"), "can"),
    "devoir": (("dois", "doit", "devons", "devez", "doivent"), "must"),
}
_NEGATIVE = {
    "do": "don't", "does": "doesn't", "did": "didn't", "will": "won't", "was": "wasn't",
    "were": "weren't", "can": "can't",
}  # fmt: skip


@dataclass(frozen=True)
class Clause:
    """The content of a question, apart from the question word."""

    verb: Verb
    tense: str
    subject: Phrase
    object: Phrase | None = None
    recipient: Phrase | None = None
    place: Phrase | None = None
    time: tuple[str, str] = ("", "")  # French, English
    modal: str = ""
    negated: bool = False

    def combinations(self, question: str) -> list[Combination]:
        """Return the pairs of words that meet here; some are kept for the held-out part."""
        verb = self.verb.infinitive
        pairs = [("question", question, verb)]
        if self.subject.noun:
            pairs.append(("subject", verb, self.subject.noun))
        if self.object is not None:
            pairs.append(("object", verb, self.object.noun))
        for phrase in (self.subject, self.object, self.recipient, self.place):
            pairs.extend(phrase.combinations if phrase else ())
        return pairs


def french(clause: Clause, question: str, form: str, fronted: Phrase | None = None) -> str:
    """Return the question in French. `fronted` is the object that stands with the question word."""
    subject = clause.subject
    complements = _complements(
        clause.object.french if clause.object and clause.object is not fronted else "",
        contracted("à", clause.recipient.french) if clause.recipient else "",
        clause.place.french if clause.place else "",
        clause.time[0],
    )
    finite = (
        MODALS[clause.modal][0][subject.person]
        if clause.modal
        else clause.verb.french(clause.tense, subject.person)
    )
    rest = _rest(clause, fronted)
    if form == SIMPLE:
        words = [finite, rest, subject.french, complements]
    elif form == EST_CE_QUE:
        words = [elided("est-ce que", subject.french), _negated(clause, finite), rest, complements]
    elif form == SUBJECT:
        words = [_negated(clause, finite), rest, complements]
    else:
        inverted = _negated(clause, with_pronoun(finite, subject))
        words = ["" if subject.pronoun else subject.french, inverted, rest, complements]
    words = [word for word in words if word]
    opening = elided(question, words[0]) if question == "Que" else f"{question} {words[0]}"
    return " ".join([opening, *words[1:], "?"])


def with_pronoun(finite: str, subject: Phrase) -> str:
    """Return the verb with its subject's pronoun: "travaille-t-elle", "vend-il", "vas-tu"."""
    pronoun = subject.pronoun
    if not pronoun:
        pronoun = ("elle" if subject.feminine else "il") + ("s" if subject.plural else "")
    link = "-t-" if finite[-1] in "ea" and pronoun[0] in "ie" else "-"
    return f"{finite}{link}{pronoun}"


def _rest(clause: Clause, fronted: Phrase | None) -> str:
    """Return what follows the finite verb: an infinitive or an agreed participle."""
    if clause.modal:
        return clause.verb.infinitive
    if clause.tense != PAST:
        return ""
    # With avoir, the participle agrees with an object that precedes it ("Quelles pommes a-t-elle
    # mangées ?").
    controller = clause.subject if clause.verb.takes_etre else fronted
    if controller is None:
        return clause.verb.participle
    return clause.verb.agreed_participle(controller.feminine, controller.plural)


def _negated(clause: Clause, finite: str) -> str:
    if not clause.negated:
        return finite
    return ("n'" if begins_with_vowel(finite) else "ne ") + finite + " pas"


def elided(word: str, following: str) -> str:
    """Return "Que" or "est-ce que" as it stands before the next word."""
    aspirated = following.startswith("h")  # no subject or verb that can follow has a mute h
    if begins_with_vowel(following) and not aspirated:
        return word[:-1] + "'" + following
    return f"{word} {following}"


def english(clause: Clause, question: str, fronted: Phrase | None = None, gap: str = "") -> str:
    """Return the question in English. `gap` is the preposition that "who" has left behind."""
    auxiliary, main = _english_verb(clause)
    complement = clause.object.english if clause.object and clause.object is not fronted else ""
    place = clause.place.english if clause.place else ""
    if gap == "with" and "motion" in clause.verb.flags:
        place, gap = _complements(place, gap), ""  # "go to the park with"
    words = _complements(
        question,
        auxiliary,
        clause.subject.english,
        main,
        clause.verb.particle,
        complement,
        gap,
        f"to {clause.recipient.english}" if clause.recipient else "",
        place,
        clause.time[1],
    )
    return words + "?"


def english_subject_question(clause: Clause, question: str) -> str:
    """Ask for the subject itself: "Who eats ...?", "Which doctors don't work ...?"."""
    auxiliary, main = _english_verb(clause)
    if auxiliary in ("do", "does", "did"):
        auxiliary, main = "", _inflected(clause, auxiliary, main)
    words = _complements(
        question,
        auxiliary,
        main,
        clause.verb.particle,
        clause.object.english if clause.object else "",
        f"to {clause.recipient.english}" if clause.recipient else "",
        clause.place.english if clause.place else "",
        clause.time[1],
    )
    return words + "?"


def _english_verb(clause: Clause) -> tuple[str, str]:
    """Return the auxiliary, perhaps negated, and the main verb: ("doesn't", "want to eat")."""
    verb, third = clause.verb, clause.subject.english_third_singular
    if clause.modal:
        modal = MODALS[clause.modal][1]
        auxiliary = modal or ("does" if third else "do")
        main = verb.english if modal else f"want to {verb.english}"
    elif clause.tense in (PRESENT, PAST, FUTURE):
        auxiliary = {PRESENT: "does" if third else "do", PAST: "did", FUTURE: "will"}[clause.tense]
        main = verb.english
    else:
        auxiliary, main = "was" if third else "were", verb.gerund
    return (_NEGATIVE[auxiliary] if clause.negated else auxiliary), main


def _inflected(clause: Clause, auxiliary: str, main: str) -> str:
    if clause.modal:
        return main.replace("want", "wants", 1) if auxiliary == "does" else main
    if auxiliary == "did":
        return clause.verb.english_past
    return clause.verb.english_third_person() if auxiliary == "does" else main


def _complements(*parts: str) -> str:
    return " ".join(part for part in parts if part)
