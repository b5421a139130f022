"""Train a DeViSE model: from a features artifact to a devise artifact.

It trains the heads of the calibration (`calibrate.py`), then the head on all seen labels, and then,
if requested, head and backbone together (`finetune.py`). Each is a run of the one training loop
with its own checkpoints below `OUT.run/`, so that an interrupted run resumes in the stage where it
stopped.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from seqvis import artifacts
from seqvis.cluster import Session
from seqvis.devise.calibrate import Calibration, Project, calibrate
from seqvis.devise.data import DROPPED, TrainingData, left_out, load_data, write_trained_on
from seqvis.devise.finetune import PictureFiles, check_earlier, find_pictures, finetune
from seqvis.devise.head import Head, class_points, conse_points
from seqvis.devise.labels import WordNet
from seqvis.devise.model import BACKBONE, WEIGHTS, write_model
from seqvis.devise.settings import PLACES, DeviseSettings
from seqvis.devise.space import KIND, unit
from seqvis.devise.task import HeadTask, Pictures
from seqvis.errors import ConfigError
from seqvis.storage import absolute, locate
from seqvis.training.checkpoints import CheckpointStore, Identity
from seqvis.training.events import EPOCH_EVENTS, Report
from seqvis.training.fit import FitResult, fit
from seqvis.training.launch import history_as_csv, launch, run_directory
from seqvis.training.lr_finder import FinderSettings, find_in_worker, plot_rate_search
from seqvis.training.trackers.tracking import TrackerName
from seqvis.training.workers import IN_THIS_PROCESS, Resources, Workers

BLEND_BELOW = 10_000  # pictures; measured in docs/results/pictures.md


def train(
    settings: DeviseSettings,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    restart: bool = False,
    stoppable: bool = False,
    session: Session = nullcontext,
    track: Sequence[TrackerName] = (),
) -> dict[str, Any]:
    """Train a model, going on where an earlier call with the same `out` was interrupted.

    Returns the best epoch's metrics. `resources` and what follows: see `launch`. Raises
    SeqvisError for anything that a user can mend.
    """
    out = locate(settings.out)
    artifacts.check_destination(out, KIND)
    # Errors in the data are reported before any process starts; the data is not kept meanwhile.
    data = load_data(settings)
    settings = resolve_method(settings, data, report)
    for text in left_out(data):
        report({"event": "note", "text": text})
    if settings.method in ("conse", "blend") and settings.finetune.epochs:
        raise ConfigError(
            f"--finetune.epochs: {settings.method} takes the classes of the backbone as it was; "
            f"leave one of the two out"
        )
    known = data.train.table.column_names
    if settings.method == "blend" and settings.unseen and "top_classes" not in known:
        raise ConfigError(
            f"--method blend: the backbone of {settings.features} does not know ImageNet's "
            f"classes; take --method devise"
        )
    if settings.finetune.epochs and resources.gpu and not resources.cpus_per_worker:
        resources = replace(resources, cpus_per_worker=1)  # the other processors read pictures
    if restart or _checkpoints(settings, "head").latest() is None:
        head_task(settings, data).build_model()  # raises what is wrong with --init
    settings = _with_absolute_paths(settings)
    files = find_pictures(settings, data) if settings.finetune.epochs else None
    del data  # the workers read it themselves
    work = partial(train_worker, files=files)
    return launch(work, settings, out, report, resources, restart, stoppable, session, track=track)


def find_rate(
    settings: DeviseSettings,
    finder: FinderSettings,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    session: Session = nullcontext,
) -> dict[str, Any]:
    """Look for a learning rate of the head on one worker; its plot goes into `OUT.run/`."""
    if settings.method == "conse":
        raise ConfigError("--find-lr: conse trains nothing, so it has no learning rate")
    for text in left_out(load_data(settings)):
        report({"event": "note", "text": text})
    settings = _with_absolute_paths(settings)
    work = partial(_find_rate, finder=finder)
    return find_in_worker(work, settings, locate(settings.out), report, resources, session)


def _find_rate(
    settings: DeviseSettings, workers: Workers, report: Report, finder: FinderSettings
) -> None:
    task = head_task(settings, load_data(settings))
    run = run_directory(locate(settings.out))
    plot_rate_search(task, settings.optimizer, settings.fit, finder, workers, run, report)


def head_task(settings: DeviseSettings, data: TrainingData, resumed: bool = False) -> HeadTask:
    """Return the training of the head on all seen labels.

    `resumed`: a checkpoint brings its weights, so --init is not read again. Raises ConfigError if
    --init has no head, or one for other word vectors.
    """
    initial = None
    if settings.init and not resumed:
        artifact = artifacts.load(settings.init, KIND)
        stored = load_tensors(artifact.file(WEIGHTS).read_bytes())
        initial = {
            name.removeprefix("head."): tensor
            for name, tensor in stored.items()
            if name.startswith("head.")
        }
        if not initial:
            raise ConfigError(
                f"--init {settings.init}: has no head (--method {artifact.config['method']})"
            )
        if artifact.config["vectors_fingerprint"] != data.vectors.fingerprint():
            raise ConfigError(
                f"--init {settings.init}: was trained with other word vectors; give its --vectors "
                f"({artifact.config['vectors']})"
            )
    return HeadTask(data.train, data.valid, data.targets, settings, initial)


def resolve_method(settings: DeviseSettings, data: TrainingData, report: Report) -> DeviseSettings:
    """Return the settings with the method that `auto` stands for; say if the pictures are few."""
    if settings.method != "auto":
        return settings
    method: Literal["devise", "blend"] = "devise"
    count = len(data.train)
    if not settings.unseen and not settings.finetune.epochs and count < BLEND_BELOW:
        text = (
            f"{count:,} pictures of {len(data.seen):,} labels are few: a head trained on them "
            f"finds little for words that are no label; "
        )
        if "top_classes" in data.train.table.column_names:
            method = "blend"
            text += "it is blended with the backbone's classes (--method devise: the head alone)"
        else:
            text += "a backbone that knows ImageNet's classes would help (--method blend)"
        report({"event": "note", "text": text})
    return settings.model_copy(update={"method": method})


def train_worker(
    settings: DeviseSettings, workers: Workers, report: Report, files: PictureFiles | None = None
) -> None:
    """Train as one of the workers. The first one writes the model.

    `files`: the pictures to fine-tune on; None: the backbone stays as it is.
    """
    data = load_data(settings)
    training = _Training(settings, data, workers, report)
    classes: dict[str, Tensor] = {}
    if settings.method in ("conse", "blend"):
        classes = {"classes": torch.from_numpy(training.class_points())}
    if settings.method == "conse":
        known = {"method": "conse", "unseen_bonus": 0.0, "seen_labels": len(data.seen)}
        training.save(classes, known)
        return
    if files:
        check_earlier(settings)
    calibration = training.calibrate()
    resumed = _checkpoints(settings, "head").latest() is not None
    task = head_task(settings, data, resumed)
    result = training.fit(task, "head", settings.identity(), _of_stage("head", report))
    head, backbone = result.tensors, None
    if files:
        report_tuning = _of_stage("finetune", report)
        tuned = finetune(settings, data, files, head, workers, report_tuning)
        result, head, backbone = tuned.result, tuned.head, tuned.backbone
    metrics: dict[str, Any] = {k: value for k, value in result.best.items() if k != "step"}
    metrics |= {
        "method": settings.method,
        "parameters": sum(tensor.numel() for tensor in head.values()),
        "seen_labels": len(data.seen),
        "unseen_bonus": calibration.bonus if calibration else 0.0,
        "labels_without_vector": len(data.without_vector),
    }
    if calibration:
        metrics["held_out_labels"] = calibration.harmonic | calibration.among_unseen
    weights = {f"head.{name}": tensor for name, tensor in head.items()}
    training.save(weights | classes, metrics, result, backbone)


def _of_stage(stage: str, report: Report) -> Report:
    """Return `report` for the events of one of the trainings that make a model."""
    return lambda event: report({**event, "stage": stage})


@dataclass(frozen=True)
class _Training:
    """One worker's part in training a model."""

    settings: DeviseSettings
    data: TrainingData
    workers: Workers
    report: Report

    def fit(self, task: HeadTask, stage: str, identity: Identity, report: Report) -> FitResult:
        settings = self.settings
        checkpoints, epochs = _checkpoints(settings, stage), settings.epochs
        return fit(
            task, epochs, settings.fit, settings.optimizer, checkpoints, self.workers, report,
            identity,
        )  # fmt: skip

    def calibrate(self) -> Calibration | None:
        """Find the bonus of unseen labels; None without such labels, or if none is wanted."""
        chosen, data = self.settings.calibration, self.data
        if not chosen.folds or data.labels.seen.all():
            return None
        if chosen.folds < 2 or chosen.folds > len(data.seen) // 2:
            raise ConfigError(
                f"--calibration.folds: must be 0, or from 2 to half the {len(data.seen)} seen "
                f"labels"
            )
        calibration = calibrate(
            data.train, data.valid, data.targets, chosen, self.settings.fit.seed,
            self._train_fold, self.workers,
        )  # fmt: skip
        at = f"harmonic@{chosen.at}"
        self._note(
            f"bonus of unseen labels {calibration.bonus:.2f}: {at} on held-out seen labels "
            f"{calibration.without[at]:.3f} without it, {calibration.harmonic[at]:.3f} with it"
        )
        return calibration

    def class_points(self, held_out: Collection[str] = ()) -> np.ndarray:
        """Return the points of the backbone's classes without the unseen and held-out labels."""
        data = self.data
        left_out = {*data.labels.labels[len(data.seen) :], *held_out}
        return class_points(data.vectors, WordNet.load(), data.space, left_out)

    def save(
        self,
        tensors: dict[str, Tensor],
        metrics: dict[str, Any],
        result: FitResult | None = None,
        backbone: dict[str, Tensor] | None = None,
    ) -> None:
        """Write the model, as the first worker, and report its metrics."""
        if not self.workers.is_first:
            return
        settings, data = self.settings, self.data
        recorded = dict(data.train.table.artifact.config["backbone"])
        content = save_tensors(backbone) if backbone is not None else None
        if content is not None:
            recorded |= {"weights": BACKBONE, "sha256": hashlib.sha256(content).hexdigest()}
        config = settings.model_dump() | {
            "feature_dimension": data.train.table.dimension,
            "backbone": recorded,
            "vectors_fingerprint": data.vectors.fingerprint(),
            "features_fingerprint": data.train.table.artifact.fingerprint(),
        }
        from seqvis.plots.figures import plot_curves  # matplotlib takes a second to load

        with artifacts.create(settings.out, KIND, config) as writer:
            writer.metrics.update(json.loads(json.dumps(metrics)))
            write_model(writer, data.labels, tensors, data.space.centre)
            writer.write_json(DROPPED, [asdict(label) for label in data.without_vector])
            if settings.method != "conse":
                write_trained_on(writer, data.train)
            if content is not None:
                writer.path(BACKBONE).write_bytes(content)
            if result is not None:
                writer.path("metrics.csv").write_bytes(history_as_csv(result.history))
                with writer.local_file("curves.png") as path:
                    plot_curves(path, result.history, result.best["epoch"])
        self.report({"event": "done", "metrics": metrics})

    def _train_fold(
        self, number: int, train: Pictures, valid: Pictures, kept: np.ndarray
    ) -> Project:
        """Train a head of the calibration, without tables of epochs: these are the model's own."""

        def quiet(event: dict[str, Any]) -> None:
            if event["event"] not in EPOCH_EVENTS:
                self.report(event)

        settings, folds = self.settings, self.settings.calibration.folds
        self._note(f"calibration, fold {number + 1} of {folds}")
        task = HeadTask(train, valid, self.data.targets[kept], settings)
        identity = settings.identity("calibration")
        stage = f"fold-{number + 1}"
        result = self.fit(task, stage, identity, _of_stage(stage, quiet))
        head = Head(
            settings.head, self.data.train.table.dimension, self.data.space.dimension
        ).eval()
        head.load_state_dict(result.tensors)

        as_unseen = [label for row, label in enumerate(self.data.seen) if row not in kept]
        classes = self.class_points(as_unseen) if settings.method == "blend" else None

        def project(pictures: Pictures) -> np.ndarray:
            with torch.inference_mode():
                points = unit(head(pictures.batch(slice(None)).features).numpy())
            if classes is None:
                return points
            tops = pictures.table.top_classes, pictures.table.top_probabilities
            assert tops[0] is not None and tops[1] is not None  # noqa: PT018  both or neither
            return unit(
                points + conse_points(classes, tops[0][pictures.rows], tops[1][pictures.rows])
            )

        return project

    def _note(self, text: str) -> None:
        self.report({"event": "note", "text": text})


def _checkpoints(settings: DeviseSettings, stage: str) -> CheckpointStore:
    return CheckpointStore(run_directory(locate(settings.out)) / "checkpoints" / stage)


def _with_absolute_paths(settings: DeviseSettings) -> DeviseSettings:
    """Return the settings with absolute paths: Ray Train's workers run in other directories."""
    given: dict[str, Any] = {
        name: absolute(uri) for name in PLACES if (uri := getattr(settings, name)) is not None
    }
    if settings.finetune.images is not None:
        given["finetune"] = settings.finetune.model_copy(
            update={"images": absolute(settings.finetune.images)}
        )
    return settings.model_copy(update=given)
