"""What a translator's weights are before training: random, word vectors, or another translator's.

Another translator's weights are matched by name, and words as text: the rows of a word that both
know are copied, other words begin at random. So a corpus may have other words than the donor's.
Parts that only one of both has are left as they are; shapes must agree.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import Field
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from seqvis import artifacts
from seqvis.config import Settings
from seqvis.decoding.direction import Direction
from seqvis.errors import ConfigError, DataError
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ModelSettings
from seqvis.text.languages import Languages, load_languages
from seqvis.text.vocabulary import Vocabulary
from seqvis.training.step import ParameterGroup
from seqvis.vectors.store import WordVectors, embedding_matrix, is_marker, words_without_vector

LANGUAGE_MODEL = "language model"
"""Kind of the artifacts that `pretrain` writes, with the weights of an encoder or a decoder."""
# Parameters with a row for each word of one side.
_BY_WORD = {
    "encoder.embedding.weight": "source",
    "decoder.embedding.weight": "target",
    "decoder.projection.weight": "target",
    "decoder.projection.bias": "target",
}


class ThawSettings(Settings):
    """How weights of another model are trained on (ULMFiT: Howard and Ruder 2018, arXiv
    1801.06146). Layers are counted downwards in encoder and decoder, embeddings last."""

    rate_factor: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer as a share of that of the one above it; ULMFiT's is 0.38."""
    epochs: float = Field(0.0, ge=0)
    """Epochs between the thawing of a layer and of the one below it; until it thaws, a layer stays
    as it was. 0: all are trained from the start."""


@dataclass(frozen=True)
class SideVectors:
    """Word vectors that one side's embeddings begin with."""

    flag: str  # the option that names them
    part: str  # "encoder" or "decoder"
    vocabulary: Vocabulary
    vectors: WordVectors

    def fill(self, model: Seq2Seq, seed: int) -> None:
        """Copy the vectors into the model. Raises ConfigError if they have another dimension."""
        embedding: nn.Embedding = model.get_submodule(f"{self.part}.embedding")  # type: ignore[assignment]
        if self.vectors.dimension != embedding.embedding_dim:
            raise ConfigError(
                f"{self.flag}: has {self.vectors.dimension} dimensions, the model's embeddings "
                f"have {embedding.embedding_dim}; set --model.embedding-size "
                f"{self.vectors.dimension}"
            )
        matrix = embedding_matrix(self.vocabulary, self.vectors, seed)
        with torch.no_grad():
            embedding.weight.copy_(torch.from_numpy(matrix))

    def missing(self) -> Iterator[str]:
        """Describe the words that have no vector. Raises DataError if none has one."""
        missing = words_without_vector(self.vocabulary, self.vectors)
        words = sum(not is_marker(word) for word in self.vocabulary.words)
        if missing and len(missing) == words:
            raise DataError(
                f"{self.flag}: has a vector for none of the corpus's {words:,} words; is it of "
                f"the right language?"
            )
        if missing:
            yield (
                f"{self.flag}: {len(missing):,} of {words:,} words have no vector and begin at "
                f"random, such as {', '.join(missing[:5])}"
            )


@dataclass(frozen=True)
class Donor:
    """A translator or language model whose weights, or a part, a translator begins with."""

    flag: str  # the option that names it
    uri: str
    part: str  # what the names of the weights that are taken begin with; "": all

    def check(self) -> None:
        """Raise ArtifactError if it is missing, damaged or no model of this kind."""
        _ = self._artifact

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        content = self._artifact.file("model.safetensors").read_bytes()
        return {
            name: tensor
            for name, tensor in load_tensors(content).items()
            if name.startswith(self.part)
        }

    @cached_property
    def languages(self) -> Languages:
        return load_languages(self._artifact)

    @cached_property
    def _artifact(self) -> artifacts.Artifact:
        pretrained = LANGUAGE_MODEL if self.part else None
        return artifacts.load(self.uri, "translator", other_kind=pretrained)

    def give(self, model: Seq2Seq, languages: Languages) -> None:
        """Copy the weights into the model. Raises ConfigError if a shape differs."""
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name in self._shared(own):
                if side := _BY_WORD.get(name):
                    places = self._common_words(side, languages)
                    own[name][places[0]] = self.weights[name][places[1]]
                else:
                    own[name].copy_(self.weights[name])

    def describe(
        self, settings: ModelSettings, languages: Languages, direction: Direction
    ) -> Iterator[str]:
        """Say what has to be learnt nevertheless. Raises ConfigError if a shape differs."""
        sizes = len(languages.source_vocabulary), len(languages.target_vocabulary)
        with torch.device("meta"):
            own = dict(Seq2Seq(settings, *sizes).named_parameters())
        shared = self._shared(own)
        for side in sorted({_BY_WORD[name] for name in shared if name in _BY_WORD}):
            vocabulary = _vocabulary(languages, side)
            new = len(vocabulary) - len(self._common_words(side, languages)[0])
            if new:
                yield (
                    f"{self.flag}: does not know {new:,} of {len(vocabulary):,} {side} words, "
                    f"which begin at random"
                )
        theirs = self._artifact.config.get("direction", "left-to-right")
        if theirs != direction and any(name.startswith("decoder.") for name in shared):
            yield (
                f"{self.flag}: its decoder writes {theirs}, this model's {direction}, so it has to "
                f"learn the order anew; --init-encoder takes the encoder alone"
            )
        missing = [name for name in own if name.startswith(self.part) and name not in shared]
        if missing:
            yield (
                f"{self.flag}: lacks these weights, so they begin at random: "
                f"{', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
            )

    def _shared(self, own: dict[str, nn.Parameter]) -> list[str]:
        """Return the names of the weights that both have."""
        shared = [name for name in own if name in self.weights]
        for name in shared:
            skipped = 1 if name in _BY_WORD else 0  # the number of words may differ
            theirs, ours = self.weights[name].shape, own[name].shape
            if theirs[skipped:] != ours[skipped:]:
                raise ConfigError(
                    f"{self.flag} {self.uri}: {name} has shape {tuple(theirs)}, this model's is "
                    f"{tuple(ours)}; give the --variant and the settings of --model with which "
                    f"that one was trained"
                )
        if not shared:
            raise ConfigError(f"{self.flag} {self.uri}: has no weights of this model")
        return shared

    def _common_words(self, side: str, languages: Languages) -> tuple[list[int], list[int]]:
        """Return the ids of the words that both know: the model's, and the donor's."""
        theirs = _vocabulary(self.languages, side)
        places = {word: place for place, word in enumerate(theirs.words)}
        ours = _vocabulary(languages, side).words
        pairs = [(own, places[word]) for own, word in enumerate(ours) if word in places]
        return [own for own, _ in pairs], [place for _, place in pairs]


def groups_by_depth(
    model: nn.Module, donated: Collection[str], settings: ThawSettings
) -> list[ParameterGroup]:
    """Return the model's weights by their depth below those that are not donated."""
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        depth = _depth(name, model) if name in donated else 0
        groups.setdefault(depth, []).append(parameter)
    return [
        ParameterGroup(parameters, settings.rate_factor**depth, depth * settings.epochs)
        for depth, parameters in sorted(groups.items())
    ]


def _depth(name: str, model: nn.Module) -> int:
    """Return 1 for the top layer of encoder or decoder, more for lower ones, 0 for other parts."""
    part, kind, *rest = name.split(".")
    if kind == "embedding":
        return len(model.get_submodule(f"{part}.layers")) + 1  # type: ignore[arg-type]
    if kind == "layers":
        return len(model.get_submodule(f"{part}.layers")) - int(rest[0])  # type: ignore[arg-type]
    return 0


def donors(init: str | None, encoder: str | None, decoder: str | None) -> list[Donor]:
    """Return the donors of the whole, the encoder and the decoder, later ones going before."""
    given: Iterable[tuple[str, str | None, str]] = (
        ("--init", init, ""),
        ("--init-encoder", encoder, "encoder."),
        ("--init-decoder", decoder, "decoder."),
    )
    return [Donor(flag, uri, part) for flag, uri, part in given if uri]


def _vocabulary(languages: Languages, side: str) -> Vocabulary:
    return languages.source_vocabulary if side == "source" else languages.target_vocabulary
