"""Turn tokens back into readable text, with spaces and capitals restored.

A writer's spaces around a dash or a slash cannot be restored unless the corpus had them in the same
places most of the time.
"""

from collections.abc import Iterable, Sequence

from seqvis.text.spacing import LearnedSpacing, separators

CAPITALIZED, UPPER = CASE_TOKENS = ("_cap_", "_up_")


def join_tokens(
    tokens: Sequence[str], language: str | None, learned: LearnedSpacing | None = None
) -> str:
    """One line of text from the tokens of a sentence in `language` (a code such as `fr`).

    With None a space stands between all of them. `learned` corrects what the rules say.
    """
    found = separators(tokens, language)
    if learned is not None:
        found = learned.correct(tokens, found)
    return "".join(before + token for before, token in zip(found, tokens, strict=True))


def restore_case(tokens: Iterable[str]) -> list[str]:
    """Undoes the case tokens: each acts on the word that follows it and disappears."""
    restored: list[str] = []
    mark = ""
    for token in tokens:
        if token in CASE_TOKENS:
            mark = token
            continue
        restored.append(_with_case(token, mark))
        mark = ""
    return restored


def upper_first(text: str) -> str:
    """The text with its first letter in upper case; leading quotes and brackets stay."""
    for position, character in enumerate(text):
        if character.isalpha():
            return text[:position] + character.upper() + text[position + 1 :]
        if character.isdigit():
            return text
    return text


def _with_case(token: str, mark: str) -> str:
    if mark == UPPER:
        return token.upper()
    return upper_first(token) if mark == CAPITALIZED else token
