"""The picture of a translation's alignment: which source words each word attended to."""

from seqvis.errors import ConfigError
from seqvis.plots import plot_attention
from seqvis.storage import Location
from seqvis.translation.translator import Translation


def draw_alignment(location: Location, translation: Translation) -> None:
    """Writes a PNG. Raises ConfigError if the model has no attention or the sentence no words."""
    best = translation.candidates[0]
    if best.attention is None:
        raise ConfigError(
            "--attention: this model has no attention (or the sentence is empty); "
            "train the variant attn or all"
        )
    columns = [*translation.source_tokens, "end"]
    weights = best.attention[: len(best.tokens)].numpy()
    with location.local_output() as path:
        plot_attention(path, weights, columns, best.tokens, title=best.text)
