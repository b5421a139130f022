"""Settings of the translation model and lesson 11's five variants of it."""

import math
from typing import Annotated, Literal

from pydantic import Field

from seqvis.config import MayChange, Settings

Variant = Literal["plain", "bidir", "force", "attn", "all"]

# What each variant of the lesson switches on: encoder in both directions, attention, forcing.
_VARIANTS: dict[str, tuple[bool, bool, bool]] = {
    "plain": (False, False, False),
    "bidir": (True, False, False),
    "force": (False, False, True),
    "attn": (False, True, True),
    "all": (True, True, True),
}


class DropoutSettings(Settings):
    """Regularisation. The first five defaults are lesson 11's; the others are AWD-LSTM's set
    (Merity et al. 2017, arXiv 1708.02182), carried to encoder and decoder and off by default."""

    input: float = Field(0.15, ge=0, lt=1)
    """Share of the encoder's input features dropped."""
    encoder: float = Field(0.25, ge=0, lt=1)
    """Share dropped between the encoder's layers."""
    bridge: float = Field(0.05, ge=0, lt=1)
    """Share of the encoder's last hidden state dropped on its way to the decoder; only where the
    encoder is bidirectional, as in lesson 11."""
    decoder: float = Field(0.1, ge=0, lt=1)
    """Share dropped between the decoder's layers."""
    output: float = Field(0.35, ge=0, lt=1)
    """Share of the decoder's output dropped before the projection to the vocabulary."""
    decoder_input: float = Field(0.0, ge=0, lt=1)
    """Share of the decoder's input features dropped."""
    variational: bool = False
    """One mask for all steps of a sentence, instead of a new one at each step."""
    embedding: float = Field(0.0, ge=0, lt=1)
    """Share of the words whose whole embedding is dropped in a batch (AWD-LSTM: 0.1)."""
    weight: float = Field(0.0, ge=0, lt=1)
    """Share of the recurrent weights dropped in a batch (weight drop; AWD-LSTM: 0.5)."""
    activation: float = Field(0.0, ge=0)
    """AR: factor of the mean square of the decoder's dropped outputs (AWD-LSTM: 2)."""
    temporal_activation: float = Field(0.0, ge=0)
    """TAR: factor of the mean square of the outputs' change per step (AWD-LSTM: 1)."""


class ModelSettings(Settings):
    """Size and form of the sequence-to-sequence model."""

    embedding_size: int = Field(300, ge=1)
    """Features of a word embedding; word vectors must have as many."""
    hidden_size: int = Field(256, ge=1)
    """Hidden units of the encoder in each direction."""
    layers: int = Field(2, ge=1)
    """Layers of the encoder."""
    cell: Literal["gru", "lstm"] = "gru"
    """What the layers of encoder and decoder are: gated recurrent units, lesson 11's, or long
    short-term memory, which PyTorch computes even where the C++ extension was built."""
    decoder_layers: int | None = Field(None, ge=1)
    """Layers of the decoder, at most those of the encoder. Default: as many."""
    decoder_size: int | None = Field(None, ge=1)
    """Hidden units of the decoder. Default: the embedding size, as in lesson 11."""
    bidirectional: Literal["none", "first", "all"] | None = None
    """Which encoder layers read in both directions; first as in GNMT. Default: the variant's."""
    attention: bool | None = None
    """Attend to the encoder's states at each step. Default: the variant's."""
    attention_size: int | None = Field(None, ge=1)
    """Hidden units of the attention network. Default: the decoder's size."""
    attention_activation: Literal["tanh", "relu"] = "tanh"
    """Activation in the attention network."""
    readout: Literal["state", "context"] = "state"
    """What a word is predicted from: the decoder's state alone (lesson 11), or also the previous
    word and the context vector, through one tanh layer (Bahdanau et al. 2015)."""
    embedding_deviation: float = Field(1.0, gt=0)
    """Standard deviation of the initial embeddings, word vectors among them; lesson 11's 1 makes
    tied output weights start with very certain, wrong predictions."""
    tie_output: bool = True
    """Use the target embeddings as the weights of the projection to the vocabulary."""
    dropout: Annotated[DropoutSettings, MayChange.IF_ASKED] = DropoutSettings()


class ForcingSettings(Settings):
    """The probability of teacher forcing (`pr_force`) over training."""

    schedule: Literal["linear", "exponential", "inverse_sigmoid", "constant"] | None = None
    """Its form (scheduled sampling, arXiv 1506.03099). Default: linear if the variant forces."""
    start: float = Field(1.0, ge=0, le=1)
    """Probability at the beginning."""
    end: float = Field(0.0, ge=0, le=1)
    """Probability that the schedule goes towards and never below."""
    epochs: float = Field(10.0, gt=0)
    """Epochs after which linear is at its end; for the others, the time scale."""


def forcing_probability(settings: ForcingSettings, epoch: float) -> float:
    """Return the probability of teacher forcing at `epoch`, which may be fractional.

    linear falls in a straight line and stays at `end` (the lesson's with its defaults: 1, 0.9 …
    0 from epoch 10 on, when `epoch` is whole); exponential is k^i and inverse_sigmoid
    k / (k + e^(i / k)), both scaled to run from `start` towards `end`, so that little is left
    after `epochs`.
    """
    progress = epoch / settings.epochs
    span = settings.start - settings.end
    if settings.schedule == "constant":
        return settings.start
    if settings.schedule == "linear":
        return settings.end + span * max(0.0, 1.0 - progress)
    if settings.schedule == "exponential":
        return settings.end + span * math.exp(-3.0 * progress)
    if settings.schedule == "inverse_sigmoid":
        # k is chosen so that the middle of the fall lies at half of `epochs`.
        steepness = 8.0
        k = math.exp(steepness * 0.5)
        fall = k / (k + math.exp(min(700.0, steepness * progress)))
        return settings.end + span * fall / (k / (k + 1))
    return 0.0


def resolve_variant(
    variant: Variant, model: ModelSettings, forcing: ForcingSettings
) -> tuple[ModelSettings, ForcingSettings]:
    """Fill in what the user left open with what the variant says."""
    bidirectional, attention, forced = _VARIANTS[variant]
    changes: dict[str, object] = {}
    if model.bidirectional is None:
        changes["bidirectional"] = "all" if bidirectional else "none"
    if model.attention is None:
        changes["attention"] = attention
    if forcing.schedule is None:
        schedule = "linear" if forced else "constant"
        start = forcing.start if forced else 0.0
        forcing = forcing.model_copy(update={"schedule": schedule, "start": start})
    return model.model_copy(update=changes), forcing
