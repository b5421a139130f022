"""Settings of `train_devise`."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from seqvis.config import MayChange, Settings, shipped
from seqvis.devise.head import HeadSettings, LossName, LossSettings
from seqvis.devise.metrics import HIT_AT
from seqvis.training.checkpoints import Identity
from seqvis.training.fit import FitSettings
from seqvis.training.schedules import OptimizerSettings
from seqvis.vision.augment import AugmentSettings

PLACES = ("features", "vectors", "out", "init", "unseen", "validation_features")
"""The settings that are directories, files or URIs, beside finetune.images."""


class CalibrationSettings(Settings):
    """How the bonus of unseen labels is found, on seen classes alone."""

    folds: int = Field(4, ge=0)
    """Parts of the seen classes that are held out in turn as if unseen; 0: no bonus."""
    at: Annotated[int, MayChange.FREELY] = 5
    """The k (1, 2, 5, 10 or 20) of the harmonic mean of hit@k that the bonus makes greatest."""

    @field_validator("at")
    @classmethod
    def _is_reported(cls, at: int) -> int:
        if at not in HIT_AT:
            raise ValueError(f"must be one of {', '.join(map(str, HIT_AT))}")
        return at


class FinetuneSettings(Settings):
    """Training the backbone on, together with the head, after the head alone."""

    epochs: int = Field(0, ge=0)
    """Passes over the pictures; 0: the backbone stays as it is. More than before go on as with
    --epochs."""
    images: Annotated[str | None, MayChange.FREELY] = None
    """Where the pictures lie now, if not where embed_images read them."""
    batch_size: int = Field(64, ge=2)
    """Pictures in a batch, over all workers."""
    learning_rate: Annotated[float, MayChange.IF_ASKED] = Field(1e-3, gt=0)
    """Highest rate of the head; the backbone's late half has a hundredth of it, its early half a
    thousandth, as lesson 11's lr/1000, lr/100, lr."""
    unreadable_share: Annotated[float, MayChange.FREELY] = Field(0.01, ge=0, le=1)
    """Share of an epoch's pictures that may turn out damaged or gone; more of them end the run."""
    augment: Annotated[AugmentSettings, MayChange.IF_ASKED] = AugmentSettings()


class DeviseSettings(Settings):
    """Everything that decides what a DeViSE model becomes."""

    features: Annotated[str, MayChange.FREELY]
    """Directory or URI that embed_images wrote."""
    vectors: Annotated[str, MayChange.FREELY]
    """Word vectors that build_vectors wrote."""
    out: Annotated[str, MayChange.FREELY]
    """Directory or URI of the model; OUT.run beside it holds checkpoints and curves."""
    init: Annotated[str | None, MayChange.ELSEWHERE] = None
    """Model whose head to start from, trained with the same backbone and word vectors."""
    method: Literal["auto", "devise", "conse", "blend"] = "auto"
    """devise: a trained head; conse: no training, the mean of the likeliest classes' vectors;
    blend: the mean of both, better with few pictures; auto: blend with fewer than 10,000 pictures
    if the backbone knows ImageNet's classes and neither --unseen nor --finetune.epochs is given,
    else devise."""
    loss: Annotated[LossName, MayChange.IF_ASKED] = "softmax"
    """cosine (lesson 11), hinge (the DeViSE paper's rank loss) or softmax over cosines."""
    unseen: Annotated[str | None, MayChange.FREELY] = None
    """Text file of labels, one a line, whose pictures are kept from training."""
    validation_features: Annotated[str | None, MayChange.FREELY] = None
    """Features of pictures to validate with; default: those of --features below folders named
    valid or val, or else a share of them."""
    validation_share: float = Field(0.1, gt=0, lt=0.9)
    """Share of the pictures that is held out, by their paths, where nothing else says which."""
    centred: bool = True
    """Take the mean of frequent words' vectors away before comparing."""
    hierarchy: int = Field(0, ge=0)
    """Numbers of a label's place in WordNet beside those of its word vector, which is then mixed
    with its hypernyms' (256 find unseen labels better); 0: the word vector alone."""
    epochs: int = Field(10, ge=1)
    """Passes over the features. A run that is given more goes on at the last rate of its cycle."""
    batch_size: int = Field(256, ge=2)
    """Pictures in a batch, over all workers."""
    head: HeadSettings = HeadSettings(dropout=0.5)
    losses: Annotated[LossSettings, MayChange.IF_ASKED] = LossSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    optimizer: Annotated[OptimizerSettings, MayChange.IF_ASKED] = OptimizerSettings(
        learning_rate=3e-3, beta1=0.9, weight_decay=1e-7, clip_norm=0.0
    )
    fit: FitSettings = FitSettings(monitor="loss")
    finetune: FinetuneSettings = FinetuneSettings()

    @field_validator("unseen")
    @classmethod
    def _may_be_shipped(cls, unseen: str | None) -> str | None:
        return unseen and shipped(unseen)

    @model_validator(mode="after")
    def _frozen_norm_is_learnt(self) -> Self:
        if self.head.freeze_norm and not self.init:
            raise ValueError(
                "--head.freeze-norm: leaves the batch norm of another head as it is; give that one "
                "by --init, or leave this out"
            )
        return self

    def identity(self, stage: Literal["calibration", "finetune"] | None = None) -> Identity:
        """Return what a stage's run is known by when it goes on; None: the head's."""
        return Identity.of(self, {"calibration", "finetune"} - {stage})
