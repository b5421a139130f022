"""Settings of the report: which settings are grouped, and how much work is put into the forests."""

from typing import Literal

from pydantic import Field

from seqvis.config import Settings

Mode = Literal["max", "min"]

DEFAULT_GROUPS: dict[str, tuple[str, ...]] = {
    "AWD-LSTM's set": (
        "*dropout.decoder_input",
        "*dropout.variational",
        "*dropout.embedding",
        "*dropout.weight",
        "*dropout.activation",
        "*dropout.temporal_activation",
    ),
    "the lesson's dropouts": (
        "*dropout.input",
        "*dropout.encoder",
        "*dropout.bridge",
        "*dropout.decoder",
        "*dropout.output",
    ),
    "all regularisation": ("*dropout*", "*label_smoothing", "*weight_decay"),
    "teacher forcing": ("forcing.*",),
    "learning rate and its cycle": (
        "optimizer.*learning_rate",
        "optimizer.*divisor",
        "optimizer.rise",
        "optimizer.shape",
        "optimizer.*momentum*",
    ),
    "sizes": ("*_size", "*layers"),
}


class ForestSettings(Settings):
    """How much work is put into the report; the defaults take about half a minute."""

    trees: int = 100
    """Trees of a forest."""
    repeats: int = 20
    """How often the folds are drawn anew, each time with another column of noise."""
    refits: int = 40
    """Forests on resampled trials, for the bands of the curves and for interactions."""
    seed: int = 0
    """Of every draw: the same table gives the same report."""


class ReportSettings(Settings):
    """What the report looks at, and how thoroughly."""

    groups: dict[str, tuple[str, ...]] = DEFAULT_GROUPS
    """Settings that are also looked at together: a name and patterns of setting names. The
    summary says of the first that can be switched off whether it helps."""
    epoch: int | None = Field(None, ge=1)
    """Epoch after which trials are compared. Default: the last that nearly all reached."""
    forest: ForestSettings = ForestSettings()
