"""Train a translator: from a corpus artifact to a translator artifact.

The files that a run needs to resume are next to the result, in `OUT.run/`: checkpoints,
metrics.csv, curves.png, tensorboard/.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.cluster import Session
from seqvis.decoding.native import pack_models
from seqvis.process import keep_few_kernels
from seqvis.seq2seq.model import Seq2Seq
from seqvis.storage import Location, absolute, locate
from seqvis.text.languages import LANGUAGE_FILES
from seqvis.training.checkpoints import CheckpointStore, restore_model
from seqvis.training.events import Report
from seqvis.training.fit import FitResult, fit
from seqvis.training.launch import history_as_csv, launch, run_directory
from seqvis.training.lr_finder import FinderSettings, find_in_worker, plot_rate_search
from seqvis.training.step import TrainingStep
from seqvis.training.trackers.tracking import TrackerName
from seqvis.training.workers import IN_THIS_PROCESS, Resources, Workers
from seqvis.translation.confidence import CALIBRATION, Calibration, calibrate
from seqvis.translation.evaluate import write_trained_pairs
from seqvis.translation.initial_weights import donors
from seqvis.translation.task import DONATED, PLACES, TrainSettings, TranslationTask
from seqvis.vectors.store import KIND as VECTORS

WORTH_A_TRIAL = 100_000  # pairs in all epochs; two processors take some minutes for them


def train(
    settings: TrainSettings,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    restart: bool = False,
    stoppable: bool = False,
    session: Session = nullcontext,
    track: Sequence[TrackerName] = (),
) -> dict[str, Any]:
    """Train a translator, going on where an earlier call with the same `out` was interrupted.

    Returns the metrics of the best epoch. `resources` and what follows: see `launch`. Raises
    SeqvisError for anything that a user can mend.
    """
    out = locate(settings.out)
    artifacts.check_destination(out, "translator")
    resolved = _with_absolute_paths(settings.resolved())
    # What is wrong with the data is said before any process is started.
    corpus = artifacts.load(settings.corpus, "corpus")
    resumed = None if restart else _resumed(_checkpoints(out))
    for text in TranslationTask(resolved, resumed=resumed).begins_at_random():
        report({"event": "note", "text": text})
    trial = None
    if corpus.metrics.get("train_pairs", 0) * settings.epochs >= WORTH_A_TRIAL:
        trial = partial(try_training, resolved)
    return launch(
        train_worker, resolved, out, report, resources, restart, stoppable, session, trial,
        track=track,
    )  # fmt: skip


def check_inputs(settings: TrainSettings) -> Artifact:
    """Return the corpus. Raises ArtifactError if it, word vectors or other models are missing."""
    for uri in filter(None, (settings.vectors_source, settings.vectors_target)):
        artifacts.load(uri, VECTORS, verify=False)
    for donor in donors(settings.init, settings.init_encoder, settings.init_decoder):
        donor.check()
    return artifacts.load(settings.corpus, "corpus")


def try_training(settings: TrainSettings, workers: Workers) -> Iterator[int]:
    """Train a model that nobody keeps, on one epoch again and again, as a `Trial`.

    Yields the target words of each batch.
    """
    keep_few_kernels()
    task = TranslationTask(settings, resumed=())  # so it reads no other model
    optimizer, fitted = settings.optimizer, settings.fit
    training = TrainingStep(task, optimizer, fitted.precision, fitted.seed, workers)
    middle = settings.epochs // 2  # by then the decoder may have to feed on its own words
    while True:
        for number, batch in enumerate(task.batches(middle, 0, workers)):
            training.step(batch, number, middle, 0.0, optimizer.beta1)
            yield batch.target_words


def find_rate(
    settings: TrainSettings,
    finder: FinderSettings,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    session: Session = nullcontext,
) -> dict[str, Any]:
    """Look for a learning rate on one worker; its plot goes into `OUT.run/`."""
    check_inputs(settings)
    settings = _with_absolute_paths(settings.resolved())
    work = partial(_find_rate, finder=finder)
    return find_in_worker(work, settings, locate(settings.out), report, resources, session)


def _find_rate(
    settings: TrainSettings, workers: Workers, report: Report, finder: FinderSettings
) -> None:
    task, run = TranslationTask(settings), run_directory(locate(settings.out))
    plot_rate_search(task, settings.optimizer, settings.fit, finder, workers, run, report)


def train_worker(settings: TrainSettings, workers: Workers, report: Report) -> None:
    """Train as one of the workers; the first one writes the translator."""
    keep_few_kernels()
    out = locate(settings.out)
    checkpoints = _checkpoints(out)
    task = TranslationTask(settings, resumed=_resumed(checkpoints))
    result = fit(
        task,
        settings.epochs,
        settings.fit,
        settings.optimizer,
        checkpoints,
        workers,
        report,
        task.identity(),
    )
    if workers.is_first:
        metrics = {key: value for key, value in result.best.items() if key != "step"}
        metrics["signature"] = task.signature
        metrics["parameters"] = sum(tensor.numel() for tensor in result.tensors.values())
        _save(out, settings, task, result, metrics, workers.device)
        report({"event": "done", "metrics": metrics})


def _checkpoints(out: Location) -> CheckpointStore:
    return CheckpointStore(run_directory(out) / "checkpoints")


def _resumed(checkpoints: CheckpointStore) -> list[str] | None:
    """Return which weights other models gave to the run that goes on; None if none does, or its
    checkpoint does not say: one of an earlier version, or of another trial of a search."""
    state = checkpoints.newest_state()
    return state["identity"].get(DONATED) if state else None


def _save(
    out: Location,
    settings: TrainSettings,
    task: TranslationTask,
    result: FitResult,
    metrics: dict[str, Any],
    device: torch.device,
) -> None:
    corpus = task.corpus
    config = settings.model_dump() | {
        "corpus_fingerprint": corpus.fingerprint(),
        "source_lang": corpus.config["source_lang"],
        "target_lang": corpus.config["target_lang"],
        "train_pairs": len(task.train),
        "valid_pairs": len(task.valid),
    }
    from seqvis.plots.figures import plot_curves  # matplotlib takes a second to load

    with artifacts.create(out, "translator", config) as writer:
        writer.metrics.update(json.loads(json.dumps(metrics)))
        writer.write_tensors("model.safetensors", result.tensors)
        writer.path("metrics.csv").write_bytes(history_as_csv(result.history))
        for name in LANGUAGE_FILES:
            if name in corpus.files:
                writer.path(name).write_bytes(corpus.file(name).read_bytes())
        write_trained_pairs(writer, task.train)
        writer.write_json(CALIBRATION, _calibration(task, result, device).model_dump())
        with writer.local_file("curves.png") as path:
            plot_curves(path, result.history, result.best["epoch"])


def _calibration(task: TranslationTask, result: FitResult, device: torch.device) -> Calibration:
    """Find out on the validation pairs how sure the best epoch's weights are."""
    languages, valid = task.languages, task.valid
    assert valid.source_texts is not None
    assert valid.target_texts is not None
    sizes = len(languages.source_vocabulary), len(languages.target_vocabulary)
    model = Seq2Seq(task.settings.model, *sizes)
    restore_model(model, result.tensors, "the best epoch")
    packed = pack_models([model.to(device).eval()])
    direction = task.settings.direction
    return calibrate(packed, languages, direction, valid.source_texts, valid.target_texts)


def _with_absolute_paths(settings: TrainSettings) -> TrainSettings:
    """Return the settings for Ray Train's workers, which run in a directory of their own."""
    uris = {name: uri for name in PLACES if (uri := getattr(settings, name)) is not None}
    return settings.model_copy(update={name: absolute(uri) for name, uri in uris.items()})
