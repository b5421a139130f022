"""What a translator returns: a sentence with its translations, and how a notebook shows it."""

from dataclasses import dataclass, field, replace
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from seqvis.errors import ConfigError
from seqvis.storage import Location
from seqvis.vectors.store import is_marker

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # takes a second to load


@dataclass(frozen=True)
class Alternative:
    """One translation of a sentence."""

    text: str
    tokens: list[str]
    score: float  # mean log probability a word, as the search's length penalty defines it
    attention: Tensor | None = field(repr=False)
    """(tokens or fewer, source tokens + 1), whose last column is `_eos_`; None without attention"""
    complete: bool  # False if it was cut at the longest length


@dataclass(frozen=True)
class Translation:
    """A sentence and its translations, best first. There is always at least one."""

    source: str
    source_tokens: list[str]
    alternatives: list[Alternative]
    unknown: list[str]  # words of the source that the model does not know, as written
    confidence: float | None = None  # probability that the best is good; None: not calibrated
    refused: str | None = None  # why, if the model is less sure than it should be

    @property
    def text(self) -> str:
        return self.alternatives[0].text

    def checked(self, min_confidence: float) -> "Translation":
        """Return this, marked as refused if its confidence is less."""
        if self.confidence is None or self.confidence >= min_confidence:
            return self
        reason = f"its confidence is {self.confidence:.2f}, below {min_confidence:g}"
        if self.unknown:
            reason += f"; new to the model: {', '.join(self.unknown)}"
        return replace(self, refused=reason)

    def attention_figure(self, by_word: bool = False) -> "Figure":
        """Return a figure of the source words that each word of `text` attended to.

        `by_word`: in lesson 11's form, a line for each of the first nine words; else as a map of
        all. A notebook shows the figure; `savefig` writes it. Raises ConfigError if the model has
        no attention or the sentence no words.
        """
        from seqvis.plots.attention import attention_lines, attention_map

        weights, source, target = self._alignment()
        return (attention_lines if by_word else attention_map)(weights, source, target, self.text)

    def _alignment(self) -> tuple[np.ndarray, list[str], list[str]]:
        """Return attention (target words, source words + 1), and the words; "end" is the last.

        Case marks are no words: they are left out, and attention to one counts for its word.
        """
        best = self.alternatives[0]
        if best.attention is None:
            raise ConfigError(
                "this model has no attention (or the sentence is empty); "
                "train the variant attn or all"
            )
        rows = [not is_marker(token) for token in best.tokens]
        columns = [not is_marker(token) for token in self.source_tokens]
        weights = best.attention[: len(best.tokens)].numpy()[rows]
        for place, is_word in enumerate(columns):
            if not is_word:
                weights[:, place + 1] += weights[:, place]
        source = [*compress(self.source_tokens, columns), "end"]
        return weights[:, [*columns, True]], source, list(compress(best.tokens, rows))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the texts, and a map of attention if there is one."""
        from seqvis.plots.notebook import attention_table, text_line, text_table

        shown = text_line(self.source) + text_line(self.text, "font-weight:bold")
        if len(self.alternatives) > 1:
            rows = [(each.text, f"{each.score:.2f}") for each in self.alternatives]
            shown += text_table(("n-best", "score"), rows)
        if self.unknown:
            shown += text_line(f"new to the model: {', '.join(self.unknown)}", "color:#6B6B6B")
        if self.confidence is not None:
            shown += text_line(f"confidence {self.confidence:.2f}", "color:#6B6B6B")
        if self.alternatives[0].attention is not None:
            shown += attention_table(*self._alignment())
        return f"<div>{shown}</div>"


class Translations(list[Translation]):
    """Translations in the order of their sentences; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        from seqvis.plots.notebook import text_table

        return text_table(("source", "translation"), [(each.source, each.text) for each in self])


def draw_alignment(location: Location, translation: Translation, by_word: bool = False) -> None:
    """Write `translation.attention_figure` as a PNG. Raises what that raises."""
    from seqvis.plots.style import save  # matplotlib takes a second to load

    figure = translation.attention_figure(by_word)
    location.parent().make_directory()
    with location.local_output() as path:
        save(figure, path)
