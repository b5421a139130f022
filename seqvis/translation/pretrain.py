"""Pretrain a translator's encoder or decoder as a language model, on text of one language.

The text is a file of sentences, or one side of a corpus. Words are numbered as the corpus numbers
them, so that a translator of that corpus starts from the model by --init-encoder or --init-decoder.
The artifact holds the weights under the names that they have in a translator.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.cluster import Session
from seqvis.config import MayChange, Settings
from seqvis.corpus.pairs import PairTable, load_pairs, map_side, training_pairs
from seqvis.decoding.direction import Direction, as_written
from seqvis.errors import DataError
from seqvis.nodefiles import made_once
from seqvis.process import keep_few_kernels
from seqvis.seq2seq.language_model import (
    SOURCE_PARTS,
    DecoderLanguageModel,
    EncoderLanguageModel,
)
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, Variant, resolve_variant
from seqvis.storage import Location, absolute, locate
from seqvis.text.languages import LANGUAGE_FILES, Languages, load_languages
from seqvis.text.lines import read_sentences
from seqvis.training.checkpoints import CheckpointStore, Identity
from seqvis.training.events import Report
from seqvis.training.fit import FitResult, FitSettings, fit
from seqvis.training.launch import history_as_csv, launch, run_directory
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import ParameterGroup, StepLoss
from seqvis.training.trackers.tracking import TrackerName
from seqvis.training.workers import IN_THIS_PROCESS, Resources, Workers
from seqvis.translation.batches import (
    Batch,
    BatchSettings,
    EpochPlans,
    make_batch,
    make_batches,
    plan_validation,
)
from seqvis.translation.initial_weights import LANGUAGE_MODEL

VALIDATION_BATCH = 200  # sentences
_AT_ONCE = 10_000  # sentences that are numbered before they are written


class PretrainSettings(Settings):
    """Everything that decides what a language model becomes."""

    corpus: Annotated[str, MayChange.FREELY]
    """Corpus that prepare_corpus wrote, whose words the model knows."""
    out: Annotated[str, MayChange.FREELY]
    """Directory or URI of the model; OUT.run beside it holds checkpoints and curves."""
    side: Literal["source", "target"]
    """What is trained: the encoder, on source text, or the decoder, on target text."""
    text: Annotated[str | None, MayChange.FREELY] = None
    """File of sentences, one a line, to train on. Default: the corpus's own, of that side."""
    longest: int = Field(100, ge=2)
    """Words after which a sentence of the file is cut."""
    variant: Variant = "all"
    """Of the translator that is to start from it."""
    direction: Direction = "left-to-right"
    """Of that translator, for --side target: the order in which words are predicted."""
    epochs: int = Field(5, ge=1)
    """Passes over the text. A run that is given more goes on at the last rate of its cycle."""
    model: ModelSettings = ModelSettings()
    batches: BatchSettings = BatchSettings()
    optimizer: Annotated[OptimizerSettings, MayChange.IF_ASKED] = OptimizerSettings()
    fit: FitSettings = FitSettings(monitor="loss")

    @model_validator(mode="after")
    def _only_decoders_have_a_direction(self) -> Self:
        if self.side == "source" and self.direction != "left-to-right":
            raise ValueError(
                "--direction: is of the target's words; an encoder reads alike for both, so leave "
                "it out with --side source"
            )
        return self

    def resolved(self) -> "PretrainSettings":
        """Return the settings with what the variant says filled in."""
        model, _ = resolve_variant(self.variant, self.model, ForcingSettings())
        return self.model_copy(update={"model": model})

    def identity(self) -> Identity:
        """Return what a run is known by when it goes on."""
        return Identity.of(self.resolved())


def pretrain(
    settings: PretrainSettings,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    restart: bool = False,
    session: Session = nullcontext,
    track: Sequence[TrackerName] = (),
) -> dict[str, Any]:
    """Train a language model, going on where an earlier call with the same `out` was interrupted.

    Returns the metrics of the best epoch. `resources` and what follows: see `launch`. Raises
    SeqvisError for anything that a user can mend.
    """
    out = locate(settings.out)
    artifacts.check_destination(out, LANGUAGE_MODEL)
    places = ("corpus", "out", "text")
    uris = {name: absolute(uri) for name in places if (uri := getattr(settings, name)) is not None}
    settings = settings.resolved().model_copy(update=uris)
    _ = LanguageTask(settings).train  # raises what is wrong with the text, before any process
    return launch(
        train_worker, settings, out, report, resources, restart, session=session, track=track
    )


@dataclass(frozen=True)
class LanguageTask:
    """Text of one language and the model to train on it."""

    unit: ClassVar[str] = "tokens"

    settings: PretrainSettings  # resolved

    @cached_property
    def corpus(self) -> Artifact:
        return artifacts.load(self.settings.corpus, "corpus")

    @cached_property
    def languages(self) -> Languages:
        return load_languages(self.corpus)

    @cached_property
    def train(self) -> PairTable:
        """The sentences, on both sides of a table of pairs."""
        if self.settings.text is None:
            return self._one_side(training_pairs(self.corpus))
        location = locate(self.settings.text)
        size = location.size()  # raises DataError if there is no such file
        write = partial(_number, location, self.languages, self.settings)
        folder = made_once(f"text-{self.fingerprint()}", size, write)
        side = map_side(folder, "text")
        return PairTable(side, side)

    @cached_property
    def valid(self) -> PairTable:
        return self._one_side(load_pairs(self.corpus, "valid"))

    def build_model(self) -> nn.Module:
        languages, model = self.languages, self.settings.model
        made: EncoderLanguageModel | DecoderLanguageModel
        if self.settings.side == "source":
            made = EncoderLanguageModel(model, len(languages.source_vocabulary))
        else:
            made = DecoderLanguageModel(model, len(languages.target_vocabulary))
        with torch.no_grad():
            made.embedding.weight.mul_(model.embedding_deviation)
        return made

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        trained = [weights for weights in model.parameters() if weights.requires_grad]
        return [ParameterGroup(trained)]

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.corpus.fingerprint().encode())
        if self.settings.text is not None:
            content = artifacts.describe_file(locate(self.settings.text))["sha256"]
            digest.update(f"{self.settings.side} {self.settings.longest} {content}".encode())
        return digest.hexdigest()[:16]

    def steps_in_epoch(self, epoch: int) -> int:
        return len(self._plans.of(epoch))

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Batch]:
        def make(rows: NDArray[np.int64]) -> Batch:
            return self._as_written(make_batch(self.train, rows, workers.rank, workers.count))

        return make_batches(self._plans.of(epoch)[first:], make, workers.device)

    @cached_property
    def _plans(self) -> EpochPlans:
        return EpochPlans(self.train, self.settings.batches, self.settings.fit.seed)

    def loss(self, model: nn.Module, batch: Batch, epoch: float) -> StepLoss:
        total, plain = model(batch.source)
        if not batch.own_words:  # this worker has no row, and only takes part
            return StepLoss(total * 0.0, plain.detach() * 0.0, 0)
        return StepLoss(total * batch.share(False), plain.detach(), self._predicted(batch))

    def _predicted(self, batch: Batch) -> int:
        """Return how many words are predicted of this worker's sentences."""
        assert batch.own_words is not None
        unseen = len(batch.target) if self.settings.side == "source" else 0  # what it begins with
        return batch.own_words - unseen

    def recordable(self, batch: Batch, epoch: float) -> None:
        return None

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        """Measure the loss of a word in nats, and the perplexity, of the corpus's valid part."""
        sums = np.zeros(2)
        plan = plan_validation(self.valid, VALIDATION_BATCH)
        for rows in plan[workers.rank :: workers.count]:
            batch = self._as_written(make_batch(self.valid, rows)).to(workers.device)
            _, plain = model(batch.source)
            sums += float(plain), self._predicted(batch)
        loss, words = np.sum(workers.gather(sums), axis=0)
        mean = float(loss / max(1, words))
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}

    def schedules(self, epoch: int) -> dict[str, float]:
        return {}

    def flops(self, model: nn.Module, batch: Batch) -> float:
        weights = sum(tensor.numel() for tensor in self.parameter_groups(model)[0].parameters)
        return 6.0 * weights * (batch.own_words or batch.target_words)

    def _as_written(self, batch: Batch) -> Batch:
        ids = as_written(batch.source.ids, self.settings.direction)
        return replace(batch, source=replace(batch.source, ids=ids))

    def _one_side(self, table: PairTable) -> PairTable:
        side = table.source if self.settings.side == "source" else table.target
        return PairTable(side, side)


def train_worker(settings: PretrainSettings, workers: Workers, report: Report) -> None:
    """Train as one of the workers; the first one writes the model."""
    keep_few_kernels()
    out, task = locate(settings.out), LanguageTask(settings)
    checkpoints = CheckpointStore(run_directory(out) / "checkpoints")
    result = fit(
        task, settings.epochs, settings.fit, settings.optimizer, checkpoints, workers, report,
        settings.identity(),
    )  # fmt: skip
    if workers.is_first:
        metrics = {key: value for key, value in result.best.items() if key != "step"}
        _save(out, settings, task, result, metrics)
        report({"event": "done", "metrics": metrics})


def _save(
    out: Location,
    settings: PretrainSettings,
    task: LanguageTask,
    result: FitResult,
    metrics: dict[str, Any],
) -> None:
    from seqvis.plots.figures import plot_curves  # matplotlib takes a second to load

    known = "encoder." if settings.side == "source" else "decoder."
    unused = tuple(f"decoder.{name}" for name in SOURCE_PARTS)
    weights = {
        name: tensor
        for name, tensor in result.tensors.items()
        if name.startswith(known) and not name.startswith(unused)
    }
    config = settings.model_dump() | {"corpus_fingerprint": task.corpus.fingerprint()}
    with artifacts.create(out, LANGUAGE_MODEL, config) as writer:
        writer.metrics.update(metrics)
        writer.write_tensors("model.safetensors", weights)
        writer.path("metrics.csv").write_bytes(history_as_csv(result.history))
        for name in LANGUAGE_FILES:
            if name in task.corpus.files:
                writer.path(name).write_bytes(task.corpus.file(name).read_bytes())
        with writer.local_file("curves.png") as path:
            plot_curves(path, result.history, result.best["epoch"])


def _number(text: Location, languages: Languages, settings: PretrainSettings, folder: Path) -> None:
    """Write the word ids of the text's sentences into `folder`, as `map_side` reads them."""
    sentences = filter(str.strip, read_sentences(text))
    end = 0
    with (folder / "text.words").open("wb") as words, (folder / "text.offsets").open("wb") as ends:
        ends.write(np.zeros(1, np.int64).tobytes())
        while block := list(islice(sentences, _AT_ONCE)):
            ids = [_ids(sentence, languages, settings) for sentence in block]
            words.write(np.concatenate(ids).tobytes())
            offsets = end + np.cumsum([len(numbers) for numbers in ids], dtype=np.int64)
            ends.write(offsets.tobytes())
            end = int(offsets[-1])
    if not end:
        raise DataError(f"{text.uri}: holds no sentence to train on")


def _ids(
    sentence: str, languages: Languages, settings: PretrainSettings
) -> NDArray[np.unsignedinteger[Any]]:
    if settings.side == "source":
        vocabulary, numbers = languages.source_vocabulary, languages.read_as_prepared(sentence).ids
    else:
        vocabulary, numbers = languages.target_vocabulary, tuple(languages.target_ids(sentence))
    if len(numbers) > settings.longest:
        numbers = (*numbers[: settings.longest - 1], numbers[-1])
    return np.array(numbers, vocabulary.id_type)
