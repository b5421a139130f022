"""Train a translator: from a corpus artifact to a translator artifact.

`TrainSettings` has every setting. `train` runs the one training loop in N workers and returns the
best epoch's metrics; at the end the first worker writes the artifact. The files that a run needs to
resume are next to the result, in `OUT.run/`: checkpoints, metrics.csv, curves.png, tensorboard/.
"""

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from pydantic import Field
from safetensors.torch import save as save_tensors

from seqvis import artifacts
from seqvis.config import Settings
from seqvis.seq2seq.forcing import ForcingSettings
from seqvis.seq2seq.settings import ModelSettings, Variant, resolve_variant
from seqvis.storage import Location, absolute, locate
from seqvis.text.languages import LANGUAGE_FILES
from seqvis.training.checkpoints import CheckpointStore
from seqvis.training.events import Report
from seqvis.training.fit import FitResult, FitSettings, fit
from seqvis.training.launch import history_as_csv, launch, run_directory
from seqvis.training.lr_finder import plot_rate_search
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.workers import IN_THIS_PROCESS, Resources, Workers
from seqvis.translation.batches import BatchSettings
from seqvis.translation.metrics import Scoring
from seqvis.translation.overlap import write_trained_pairs
from seqvis.translation.task import LossSettings, TranslationTask
from seqvis.vectors.store import KIND as VECTORS
from seqvis.vectors.store import WordVectors

if TYPE_CHECKING:
    from seqvis.cluster import Session  # loads Ray


class TrainSettings(Settings):
    """Everything that decides what a translator becomes."""

    corpus: str
    """Directory or URI that prepare_corpus wrote."""
    out: str
    """Directory or URI of the translator; OUT.run beside it holds checkpoints and curves."""
    variant: Variant = "all"
    """Of the seed: plain, bidir (encoder in both directions), force (teacher forcing), attn
    (attention and forcing), all."""
    epochs: int = Field(12, ge=1)
    """Passes over the corpus. A run that is given more goes on at the last rate of its cycle."""
    vectors_source: str | None = None
    """Word vectors of the source language, from build_vectors, to start from."""
    vectors_target: str | None = None
    """Word vectors of the target language, from build_vectors, to start from."""
    scoring: Scoring = "text"
    """How validation BLEU is computed: text (sacreBLEU, without case) or moses (tokenised and
    lowercased, as published for Multi30k)."""
    samples: int = Field(3, ge=0)
    """Validation sentences shown after each epoch."""
    model: ModelSettings = ModelSettings()
    forcing: ForcingSettings = ForcingSettings()
    batches: BatchSettings = BatchSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    fit: FitSettings = FitSettings()

    def resolved(self) -> "TrainSettings":
        """With what the variant says filled in."""
        model, forcing = resolve_variant(self.variant, self.model, self.forcing)
        return self.model_copy(update={"model": model, "forcing": forcing})

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a run to go on: all but places and appearances."""
        places = {"corpus", "out", "samples", "vectors_source", "vectors_target", "fit"}
        return self.resolved().model_dump(exclude=places) | {"fit": self.fit.identity()}


def train(
    settings: TrainSettings,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    restart: bool = False,
    stoppable: bool = False,
    session: "Session" = nullcontext,
) -> dict[str, Any]:
    """Trains a translator, going on where an earlier call with the same `out` was interrupted.

    Returns the metrics of the best epoch. `resources` and what follows: see `launch`. Raises
    SeqvisError for anything that a user can mend.
    """
    out = locate(settings.out)
    artifacts.check_destination(out, "translator")
    resolved = _with_absolute_paths(settings.resolved())
    # What is wrong with the corpus or the vectors is said before any process is started.
    check_inputs(settings)
    if settings.vectors_source or settings.vectors_target:
        for text in make_task(resolved).missing_vectors():
            report({"event": "note", "text": text})
    return launch(train_worker, resolved, out, report, resources, restart, stoppable, session)


def check_inputs(settings: TrainSettings) -> None:
    """Raises ArtifactError if the corpus or the word vectors are missing or damaged."""
    artifacts.load(settings.corpus, "corpus")
    for uri in filter(None, (settings.vectors_source, settings.vectors_target)):
        artifacts.load(uri, VECTORS, verify=False)


def find_rate(settings: TrainSettings, use_gpu: bool, report: Report) -> dict[str, Any]:
    """Runs the learning-rate finder in this process; its plot goes into `OUT.run/`."""
    settings = settings.resolved()
    task, run = make_task(settings), run_directory(locate(settings.out))
    return plot_rate_search(task, settings.optimizer, settings.fit, use_gpu, run, report)


def train_worker(settings: TrainSettings, workers: Workers, report: Report) -> None:
    """What each worker does. The first one writes the translator."""
    out = locate(settings.out)
    task = make_task(settings)
    result = fit(
        task,
        settings.epochs,
        settings.fit,
        settings.optimizer,
        CheckpointStore(run_directory(out) / "checkpoints"),
        workers,
        report,
        settings.identity(),
    )
    if workers.is_first:
        metrics = {key: value for key, value in result.best.items() if key != "step"}
        metrics["signature"] = task.signature
        metrics["parameters"] = sum(tensor.numel() for tensor in result.tensors.values())
        _save(out, settings, task, result, metrics)
        report({"event": "done", "metrics": metrics})


def make_task(settings: TrainSettings) -> TranslationTask:
    """The task that `settings` (resolved) describe; opens the corpus and the word vectors."""
    vectors = [
        WordVectors.open(uri) if uri else None
        for uri in (settings.vectors_source, settings.vectors_target)
    ]
    return TranslationTask(
        artifacts.load(settings.corpus, "corpus"),
        settings.model,
        settings.forcing,
        settings.batches,
        settings.loss,
        settings.fit.seed,
        vectors[0],
        vectors[1],
        settings.scoring,
        settings.samples,
    )


def _save(
    out: Location,
    settings: TrainSettings,
    task: TranslationTask,
    result: FitResult,
    metrics: dict[str, Any],
) -> None:
    corpus = task.corpus
    config = settings.model_dump() | {
        "corpus_fingerprint": corpus.fingerprint(),
        "source_lang": corpus.config["source_lang"],
        "target_lang": corpus.config["target_lang"],
    }
    from seqvis.plots.training import plot_curves  # matplotlib takes a second to load

    with artifacts.create(out, "translator", config) as writer:
        writer.metrics.update(json.loads(json.dumps(metrics)))
        writer.path("model.safetensors").write_bytes(save_tensors(result.tensors))
        writer.path("metrics.csv").write_bytes(history_as_csv(result.history))
        for name in LANGUAGE_FILES:
            if name in corpus.files:
                writer.path(name).write_bytes(corpus.file(name).read_bytes())
        write_trained_pairs(writer, task.train)
        with writer.local_file("curves.png") as path:
            plot_curves(path, result.history, result.best["epoch"])


def _with_absolute_paths(settings: TrainSettings) -> TrainSettings:
    """Ray Train's workers run in a directory of their own."""
    names = ("corpus", "out", "vectors_source", "vectors_target")
    given = {name: uri for name in names if (uri := getattr(settings, name)) is not None}
    return settings.model_copy(update={name: absolute(uri) for name, uri in given.items()})
