"""Settings of the report: groups of settings, and how much is computed."""

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
    """How much is computed; the defaults take about half a minute."""

    trees: int = 100
    """Trees in each forest."""
    repeats: int = 20
    """How often the folds are drawn again, each time with another column of noise."""
    refits: int = 40
    """Forests on resampled trials, for the bands of the curves and for interactions."""
    seed: int = 0
    """Seed of every draw: the same table gives the same report."""


class ReportSettings(Settings):
    """What the report compares, and how thoroughly."""

    groups: dict[str, tuple[str, ...]] = DEFAULT_GROUPS
    """Settings that are also examined together: a name and patterns of setting names. The summary
    says whether the first group that can be switched off helps."""
    epoch: int | None = Field(None, ge=1)
    """Epoch after which trials are compared. Default: the last one that nearly all reached."""
    forest: ForestSettings = ForestSettings()
