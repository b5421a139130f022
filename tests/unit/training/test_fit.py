"""Which epoch a run keeps, and how it goes on: with a task of a single weight."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn

from seqvis import artifacts
from seqvis.config import MayChange, Settings
from seqvis.errors import ConfigError, TrainingError
from seqvis.storage import locate
from seqvis.training.checkpoints import CheckpointStore, Identity
from seqvis.training.events import StopTraining
from seqvis.training.fit import FitResult, FitSettings, fit
from seqvis.training.launch import launch
from seqvis.training.progress import NAMES, Names, Progress, diverged
from seqvis.training.schedules import OptimizerSettings, learning_rate, momentum
from seqvis.training.step import ParameterGroup, StepLoss
from seqvis.training.workers import Workers

RATES = OptimizerSettings(learning_rate=0.1, clip_norm=0.0, cyclical_momentum=True)


def test_the_smoothed_loss_is_fast_ais_moving_average() -> None:
    """Its `fit`: avg_loss = avg_loss * 0.98 + loss * 0.02, divided by 1 - 0.98 ** batch_num."""
    progress, average = Progress(), 0.0
    steps = [(12.0, 4), (9.0, 2), (0.0, 0), (10.0, 5), (3.0, 3), (8.0, 4)]
    for place in range(0, len(steps), 2):  # as often as losses are asked for
        sums, tokens = zip(*steps[place : place + 2], strict=True)
        progress.count(torch.tensor(sums), tokens)
    for batch_num, (total, tokens) in enumerate(steps, 1):
        average = 0.98 * average + 0.02 * total / max(1, tokens)
        expected = average / (1 - 0.98**batch_num)
    assert progress.smoothed_loss == pytest.approx(expected, rel=1e-6)
    assert progress.epoch_total == 42
    assert progress.epoch_tokens == 18


class Rates(Settings):
    highest: float = 1.0
    kind: Annotated[str, MayChange.NEVER] = "plain"


class OneWeightSettings(Settings):
    """What a run of the task may be known by."""

    epochs: int
    fit: FitSettings
    out: Annotated[str, MayChange.FREELY] = "x"
    size: int = 64
    tied: bool = True
    rates: Annotated[Rates, MayChange.IF_ASKED] = Rates()


class OneWeight:
    """Two steps an epoch; validation says what the test wants it to."""

    unit = "tokens"

    def __init__(self, validation: list[dict[str, Any]]):
        self.validation = validation
        self.rates: list[float] = []

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        return [ParameterGroup(list(model.parameters()))]

    def fingerprint(self) -> str:
        return "data"

    def steps_in_epoch(self, epoch: int) -> int:
        return 2

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Tensor]:
        self.epoch = epoch
        return iter([torch.ones(4, 1)] * (2 - first))

    def loss(self, model: nn.Module, batch: Tensor, epoch: float) -> StepLoss:
        loss = model(batch).square().mean()
        return StepLoss(loss, loss.detach() * 4, 4)

    def recordable(self, batch: Tensor, epoch: float) -> None:
        return None

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        return self.validation[self.epoch]

    def schedules(self, epoch: int) -> dict[str, float]:
        return {"teacher_forcing": 1 - epoch / 10}

    def flops(self, model: nn.Module, batch: Tensor) -> float:
        return 1.0


def run(
    folder: Path,
    validation: list[dict[str, Any]],
    epochs: int | None = None,
    stop: int = 0,
    events: list[dict[str, Any]] | None = None,
    others: dict[str, Any] | None = None,
    **settings: Any,
) -> FitResult:
    """Fits until the end, or with `stop` to that epoch; the notes go into `events`."""

    def report(event: dict[str, Any]) -> None:
        if events is not None:
            events.append(event)
        if event["event"] == "epoch" and event["history"][-1]["epoch"] == stop:
            raise StopTraining

    chosen = FitSettings(precision="float32", **{"monitor": "bleu", **settings})
    epochs = epochs or len(validation)
    store = CheckpointStore(locate(folder / "checkpoints"))
    known = Identity.of(OneWeightSettings(epochs=epochs, fit=chosen, **(others or {})))
    return fit(OneWeight(validation), epochs, chosen, RATES, store, Workers(), report, known)


def rows(name: str, values: list[float], losses: list[float]) -> list[dict[str, float]]:
    pairs = zip(values, losses, strict=True)
    return [{name: float(value), "loss": float(loss)} for value, loss in pairs]


def notes(events: list[dict[str, Any]]) -> str:
    return "\n".join(event["text"] for event in events if event["event"] == "note")


NAN = math.nan
CHOICES = [
    ("bleu", [0, 0, 0], [3, 1, 2], 2),  # constant: the lowest loss
    ("bleu", [0, 0, 0], [1, 1, 1], 3),  # all is equal: the last
    ("chrf", [5, 9, 9, 4], [3, 2, 1.5, 1], 3),
    ("accuracy", [0.5, 0.9, 0.9], [1, 2, 3], 2),
    ("hit@1", [0.2, 0.2, 0.1], [2, 2, 1], 2),
    ("loss", [2, 1, 1, 3], [2, 1, 1, 3], 3),
    ("forced_loss", [2, 1, 1], [5, 4, 6], 2),
    ("bleu", [NAN, 1, NAN], [1, 2, 1], 2),  # what is no number is worse than any
    ("loss", [NAN, NAN, 4, NAN], [NAN, NAN, 4, NAN], 3),
    ("bleu", [0, 0, 0], [NAN, 2, NAN], 2),
]


@pytest.mark.parametrize(("monitor", "values", "losses", "kept"), CHOICES)
def test_of_equal_scores_the_lower_loss_is_kept_and_then_the_later_epoch(
    tmp_path: Path, monitor: str, values: list[float], losses: list[float], kept: int
) -> None:
    validation = rows(monitor, values, losses)
    assert run(tmp_path / "whole", validation, monitor=monitor).best["epoch"] == kept
    for stop in range(1, len(values)):  # also if the run is resumed after any epoch
        parts = tmp_path / f"parts-{stop}"
        with pytest.raises(StopTraining):
            run(parts, validation, stop=stop, monitor=monitor)
        assert run(parts, validation, monitor=monitor).best["epoch"] == kept


def test_the_last_epoch_is_kept_where_the_epoch_is_the_monitor(tmp_path: Path) -> None:
    validation = rows("bleu", [3, 9, 1], [2, 1, NAN])
    assert run(tmp_path, validation, monitor="epoch", patience=1).best["epoch"] == 3


def test_the_best_epoch_is_told_to_whoever_draws_the_curves(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(tmp_path, rows("chrf", [9, 9, 1], [2, 1, 3]), monitor="chrf", events=events)
    assert [event["best_epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 2]


def test_a_falling_loss_holds_off_early_stopping_under_a_constant_monitor(tmp_path: Path) -> None:
    falling = rows("bleu", [0] * 7, [7, 6, 5, 5, 5, 5, 5])
    result = run(tmp_path, falling, patience=2)
    assert len(result.history) == 5  # the third was the last better one
    assert result.best["epoch"] == 5


def test_a_monitor_that_never_moved_is_reported(tmp_path: Path) -> None:
    for monitor, values, reported in (
        ("bleu", [0.0, 0.0, 0.0], True),
        ("accuracy", [NAN, NAN, NAN], True),
        ("chrf", [1.0, 1.0, 1.1], False),
        ("hit@5", [0.5], False),
    ):
        events: list[dict[str, Any]] = []
        validation = rows(monitor, values, [3.0, 2.0, 1.0][: len(values)])
        run(tmp_path / monitor, validation, monitor=monitor, events=events)
        text = f"--fit.monitor {monitor}: was {values[0]:g} after each of {len(values)} epochs"
        assert (text in notes(events)) is reported


@pytest.mark.parametrize("monitor", ["blue", "learning_rate", "seconds", "samples", "epochs"])
def test_only_a_validation_metric_can_be_the_monitor(tmp_path: Path, monitor: str) -> None:
    validation = [{"bleu": 1.0, "loss": 1.0, "samples": ["x"]}]
    with pytest.raises(
        ConfigError, match="is not a validation metric; choose from bleu, loss, train_l"
    ):
        run(tmp_path, validation, monitor=monitor)


def test_a_finished_run_goes_on_with_more_epochs_at_the_last_rate_of_its_cycle(
    tmp_path: Path,
) -> None:
    validation = rows("bleu", [1, 2, 3, 4, 5, 6, 7], [1.0] * 7)
    first = run(tmp_path, validation, epochs=3)
    events: list[dict[str, Any]] = []
    second = run(tmp_path, validation, epochs=5, events=events)
    assert "--epochs was 3, is 5" in notes(events)
    assert "rate, 0.005" in notes(events)
    assert second.history[:3] == first.history
    assert [row["step"] for row in second.history] == [2, 4, 6, 8, 10]
    assert [row["learning_rate"] for row in second.history[2:]] == pytest.approx([0.005] * 3)
    assert second.best["epoch"] == 5
    with pytest.raises(StopTraining):
        run(tmp_path, validation, epochs=7, stop=6)
    third = run(tmp_path, validation, epochs=7)  # interrupted, and the same command again
    assert [row["learning_rate"] for row in third.history[2:]] == pytest.approx([0.005] * 5)
    with pytest.raises(ConfigError, match=r"other settings \(epochs was 7, is 6\)"):
        run(tmp_path, validation, epochs=6)


def test_a_run_is_lengthened_to_the_same_weights_wherever_it_was_interrupted(
    tmp_path: Path,
) -> None:
    validation = rows("bleu", [1, 2, 3, 4, 5, 6], [1.0] * 6)
    run(tmp_path / "finished", validation, epochs=4)
    with pytest.raises(StopTraining):
        run(tmp_path / "interrupted", validation, epochs=4, stop=2)
    results = [run(tmp_path / name, validation, epochs=6) for name in ("finished", "interrupted")]
    assert torch.equal(results[0].tensors["weight"], results[1].tensors["weight"])
    for ours, theirs in zip(*(result.history for result in results), strict=True):
        assert ours["train_loss"] == theirs["train_loss"]
        assert ours["learning_rate"] == theirs["learning_rate"]


def test_a_checkpoint_of_an_earlier_version_is_lengthened_alike(tmp_path: Path) -> None:
    validation = rows("bleu", [1, 2, 3, 4], [1.0] * 4)
    run(tmp_path, validation, epochs=2)
    newest = CheckpointStore(locate(tmp_path / "checkpoints")).latest()
    assert newest is not None
    store = CheckpointStore(locate(tmp_path / "checkpoints"))
    snapshot = store.read(newest)
    state = json.loads(json.dumps(snapshot.state))
    del state["progress"]["schedule_epochs"]
    state["progress"] |= {"best_score": 2.0, "finished": True}
    state["identity"]["fit"] |= {"patience": 0, "precision": "float32"}
    store.save(type(snapshot)(snapshot.tensors, state), 4, {4})
    store.wait()
    result = run(tmp_path, validation, epochs=4, patience=3)
    assert [row["learning_rate"] for row in result.history[1:]] == pytest.approx([0.005] * 3)
    assert result.best["epoch"] == 4


def test_a_run_that_stopped_early_goes_on_with_more_patience_or_more_epochs(
    tmp_path: Path,
) -> None:
    validation = rows("bleu", [5, 1, 1, 1, 1, 6, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9])

    def epochs(count: int, patience: int) -> int:
        return len(run(tmp_path, validation, epochs=count, patience=patience).history)

    assert epochs(6, 1) == 2
    assert epochs(6, 1) == 2  # the same command changes nothing
    assert epochs(6, 3) == 4
    assert epochs(7, 3) == 7  # it gets its patience anew, and the sixth is better
    assert epochs(7, 1) == 7
    assert epochs(9, 0) == 9


def test_settings_that_shape_nothing_may_change_and_the_others_are_all_named(
    tmp_path: Path,
) -> None:
    validation = rows("bleu", [1, 2, 3], [3, 2, 1])
    with pytest.raises(StopTraining):
        run(tmp_path, validation, stop=1)
    differing = (
        r"\(fit.monitor was 'bleu', is 'loss'; fit.seed was 42, is 7; rates.highest was 1.0, "
        r"is 2.0; size was 64, is 32; tied was True, is False\); give --restart"
    )
    for allowed in (False, True):
        with pytest.raises(ConfigError, match=differing):
            run(
                tmp_path, validation, others={"size": 32, "tied": False, "rates": {"highest": 2.0}},
                monitor="loss", seed=7, allow_changes=allowed,
            )  # fmt: skip
    free = {"patience": 5, "checkpoint_minutes": 1.0, "others": {"out": "elsewhere"}}
    assert len(run(tmp_path, validation, **free).history) == 3


def test_settings_of_the_course_may_change_if_that_is_asked_for(tmp_path: Path) -> None:
    validation = rows("bleu", [1, 2, 3], [3, 2, 1])
    with pytest.raises(StopTraining):
        run(tmp_path, validation, stop=1)
    changed = {"rates": {"highest": 2.0}}
    remedy = r"rates.highest was 1.0, is 2.0\); give --fit.allow-changes to go on with these, --re"
    with pytest.raises(ConfigError, match=remedy):
        run(tmp_path, validation, others=changed)
    with pytest.raises(ConfigError, match=r"rates.kind was 'plain', is 'odd'\); give --restart"):
        run(tmp_path, validation, others={"rates": {"kind": "odd"}}, allow_changes=True)
    events: list[dict[str, Any]] = []
    with pytest.raises(StopTraining):
        run(tmp_path, validation, stop=2, events=events, others=changed, allow_changes=True)
    assert "from here on with other settings: rates.highest was 1.0, is 2.0" in notes(events)
    assert len(run(tmp_path, validation, others=changed).history) == 3  # they are the run's now


def test_the_table_of_epochs_has_momentum_and_the_tasks_own_schedules(tmp_path: Path) -> None:
    history = run(tmp_path, rows("bleu", [1, 2], [2, 1])).history
    assert [row["teacher_forcing"] for row in history] == [1.0, 0.9]
    assert history[0]["momentum"] < history[1]["momentum"] == pytest.approx(RATES.beta1)


def test_a_finished_model_without_checkpoints_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def finish(work: None, workers: Workers, report: Any) -> None:
        with artifacts.create(str(out), "translator", {}):
            (tmp_path / "out.run" / "checkpoints").mkdir(parents=True, exist_ok=True)

    said = []
    for restart in (False, False, True):
        events: list[dict[str, Any]] = []
        launch(finish, None, locate(out), events.append, restart=restart)
        said.append(notes(events))
    assert said == ["", "", ""]
    (tmp_path / "out.run" / "checkpoints").rmdir()
    launch(finish, None, locate(out), events.append)
    assert "out: holds a finished model, which is replaced at the end; " in notes(events)


def test_progress_reads_what_other_versions_wrote() -> None:
    stored = {"step": 3, "epoch": 1, "best_score": 0.5, "finished": False, "of_later": 1}
    assert Progress.of(stored) == Progress(step=3, epoch=1)


@pytest.mark.parametrize(
    ("clip", "product", "names"),
    itertools.product(
        (0.0, 2.5),
        (torch.float32, torch.bfloat16),
        (NAMES, Names("finetune.epochs", "finetune.learning_rate")),
    ),
)
def test_advice_on_a_loss_that_is_not_finite_fits_the_settings(
    clip: float, product: torch.dtype, names: Names
) -> None:
    optimizer = OptimizerSettings(learning_rate=0.5, clip_norm=clip)
    text = diverged(7, optimizer, product, names)
    flag = names.learning_rate.replace("_", "-")
    assert f"not finite at step 7; lower --{flag} (now 0.5)" in text
    assert ("lower --optimizer.clip-norm (now 2.5)" in text) is (clip > 0)
    assert ("--optimizer.clip-norm 1 (now 0: not clipped)" in text) is (clip == 0)
    assert ("--fit.precision float32" in text) is (product == torch.bfloat16)


def test_a_loss_that_is_not_finite_from_the_start_is_not_blamed_on_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.full((4, 1), math.nan)
    monkeypatch.setattr(OneWeight, "batches", lambda *_: iter([nothing, nothing]))
    with pytest.raises(TrainingError, match="at step 1; it was so before any weight changed"):
        run(tmp_path, rows("bleu", [1], [1]))


@pytest.mark.parametrize("cyclical", [False, True])
def test_gradient_descent_follows_the_cycle_and_resumes(tmp_path: Path, cyclical: bool) -> None:
    settings = OptimizerSettings(
        algorithm="sgd", learning_rate=0.2, weight_decay=0.01, clip_norm=0.0,
        cyclical_momentum=cyclical,
    )  # fmt: skip

    def train(name: str, stop: int = 0) -> FitResult:
        def report(event: dict[str, Any]) -> None:
            if event["event"] == "epoch" and event["history"][-1]["epoch"] == stop:
                raise StopTraining

        chosen, task = FitSettings(precision="float32"), OneWeight(rows("bleu", [1, 2, 3], [1] * 3))
        store = CheckpointStore(locate(tmp_path / name / "checkpoints"))
        known = Identity.of(OneWeightSettings(epochs=3, fit=chosen))
        return fit(task, 3, chosen, settings, store, Workers(), report, known)

    torch.manual_seed(FitSettings().seed)
    model = nn.Linear(1, 1)
    plain = torch.optim.SGD(model.parameters(), momentum=0.5, weight_decay=0.01)
    for step in range(6):
        group = plain.param_groups[0]
        group["lr"], group["momentum"] = (
            learning_rate(settings, step / 6),
            momentum(settings, step / 6),
        )
        plain.zero_grad()
        model(torch.ones(4, 1)).square().mean().backward()
        plain.step()
    result = train("whole")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(result.tensors[name], tensor)
    with pytest.raises(StopTraining):
        train("parts", stop=2)
    parts = train("parts")
    assert all(torch.equal(parts.tensors[name], tensor) for name, tensor in result.tensors.items())
