"""Models that train_translator wrote, and whether several of them may work together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from safetensors.torch import load as load_tensors

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.config import settings_from
from seqvis.decoding.direction import Direction
from seqvis.errors import ConfigError
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ModelSettings
from seqvis.storage import Place
from seqvis.text.vocabulary import Vocabulary
from seqvis.training.checkpoints import restore_model

_NUMBERING = ("source.vocab", "target.vocab", "tokenizers.json", "source.spm", "target.spm")
"""The files that decide which word has which number."""


@dataclass(frozen=True)
class TrainedModel:
    """A translator's network, at evaluation, and the artifact that it was read from."""

    model: Seq2Seq
    artifact: Artifact

    @classmethod
    def load(cls, uri: Place, device: str = "cpu") -> Self:
        """Raises ArtifactError if the artifact is incomplete or altered."""
        artifact = artifacts.load(uri, "translator")
        settings = settings_from(ModelSettings, artifact.config["model"], artifact.location.uri)
        sizes = []
        for side in ("source", "target"):
            words = artifact.file(f"{side}.vocab")
            sizes.append(len(Vocabulary.from_bytes(words.read_bytes(), words.uri)))
        model = Seq2Seq(settings, *sizes)
        weights = artifact.file("model.safetensors")
        restore_model(model, load_tensors(weights.read_bytes()), weights.uri)
        return cls(model.to(device).eval(), artifact)

    @property
    def uri(self) -> str:
        return self.artifact.location.uri

    @property
    def direction(self) -> Direction:
        """In which it writes; models of earlier versions do not say."""
        direction: Direction = self.artifact.config.get("direction", "left-to-right")
        return direction


def check_same_words(models: Sequence[TrainedModel]) -> None:
    """Raise ConfigError, naming both, if two models number words differently."""
    first = models[0]
    for other in models[1:]:
        for name in _NUMBERING:
            digests = [model.artifact.files.get(name, {}).get("sha256") for model in (first, other)]
            if digests[0] != digests[1]:
                raise ConfigError(
                    f"{other.uri}: its {name} is not that of {first.uri}; only models that were "
                    f"trained on the same corpus can work together"
                )


def check_same_direction(models: Sequence[TrainedModel]) -> None:
    """Raise ConfigError, naming both, if two models write in different directions."""
    first = models[0]
    for other in models[1:]:
        if other.direction != first.direction:
            raise ConfigError(
                f"{other.uri}: writes {other.direction}, {first.uri} {first.direction}; models of "
                f"two directions cannot choose words together, but one may rescore what the other "
                f"finds (--rescore)"
            )
