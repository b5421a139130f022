"""Draw the alignment of a translation: which source words each word attended to."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqvis.errors import ConfigError
from seqvis.plots.attention import plot_attention
from seqvis.storage import Location
from seqvis.translation.translator import Translation
from seqvis.vectors.store import is_marker


def draw_alignment(location: Location, translation: Translation) -> None:
    """Writes a PNG. Raises ConfigError if the model has no attention or the sentence no words.

    Case marks are no words: they are left out, and attention to one counts for its word.
    """
    best = translation.alternatives[0]
    if best.attention is None:
        raise ConfigError(
            "--attention: this model has no attention (or the sentence is empty); "
            "train the variant attn or all"
        )
    words = [not is_marker(token) for token in best.tokens]
    weights = best.attention[: len(best.tokens)].numpy()[words]
    columns = [*translation.source_tokens, "end"]
    weights, columns = _without_marks(weights, columns)
    rows = [token for token in best.tokens if not is_marker(token)]
    location.parent().make_directory()
    with location.local_output() as path:
        plot_attention(path, weights, columns, rows, title=best.text)


def _without_marks(
    weights: NDArray[np.float32], columns: Sequence[str]
) -> tuple[NDArray[np.float32], list[str]]:
    summed = weights.copy()
    for place in range(len(columns) - 1):
        if is_marker(columns[place]):
            summed[:, place + 1] += summed[:, place]
    kept = [not is_marker(column) for column in columns]
    return summed[:, kept], [column for column in columns if not is_marker(column)]
