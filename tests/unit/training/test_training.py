"""The training loop: exact resume, refusals, early stopping, the learning-rate finder."""

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from seqvis import artifacts
from seqvis.corpus.pairs import load_pairs
from seqvis.errors import ArtifactError, ConfigError, DataError, StorageError, TrainingError
from seqvis.samples.questions import generate_pairs
from seqvis.storage import locate
from seqvis.training.checkpoints import CheckpointStore, Snapshot
from seqvis.training.events import StopTraining
from seqvis.training.fit import FitSettings
from seqvis.training.lr_finder import FinderSettings
from seqvis.training.schedules import OptimizerSettings, learning_rate, momentum
from seqvis.training.workers import Workers
from seqvis.translation.batches import (
    BatchSettings,
    make_batch,
    plan_epoch,
)
from seqvis.translation.task import TrainSettings, TranslationTask
from seqvis.translation.train import find_rate, train, train_worker
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from tests.support.corpora import write_corpus
from tests.unit.conftest import SMALL


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 768 training questions, twelve batches, and 30 validation questions."""
    pairs = generate_pairs(798, seed=3)
    return write_corpus(tmp_path_factory.mktemp("questions") / "corpus", pairs[30:], pairs[:30])


class StopError(Exception):
    """Stands for Ctrl-C, in the middle of an epoch."""


def settings(corpus: Path, out: Path, **changes: Any) -> TrainSettings:
    places = {"corpus": str(corpus), "out": str(out), "epochs": 2}
    return TrainSettings(**places | SMALL | changes)


def ignore(event: dict[str, Any]) -> None:
    pass


def stop_at(epoch: int, position: int) -> Any:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and (event["epoch"], event["position"]) == (
            epoch,
            position,
        ):
            raise StopError

    return report


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("variant", [pytest.param("plain", marks=pytest.mark.slow), "all"])
def test_a_run_interrupted_mid_epoch_ends_with_the_same_weights_bit_for_bit(
    questions: Path, tmp_path: Path, variant: str
) -> None:
    often = SMALL["fit"] | {"checkpoint_minutes": 1e-9}
    rates = {"embedding_size": 32, "hidden_size": 24, "dropout": {"weight": 0.2, "embedding": 0.1}}
    changes = {"variant": variant, "fit": often, "model": rates}
    train(settings(questions, tmp_path / "whole", **changes), ignore)
    for epoch, position in ((1, 10), (2, 10)):
        with pytest.raises(StopError):
            train(settings(questions, tmp_path / "parts", **changes), stop_at(epoch, position))
        newest = CheckpointStore(locate(tmp_path / "parts.run" / "checkpoints")).latest()
        assert newest is not None
        state = json.loads((newest / "state.json").read_bytes())["progress"]
        assert (state["epoch"] + 1, state["position"] > 0) == (epoch, True)
    train(settings(questions, tmp_path / "parts", **changes), ignore)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    rows = [
        list(csv.DictReader((tmp_path / f"{name}.run" / "metrics.csv").open()))
        for name in ("whole", "parts")
    ]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]


def test_a_checkpoint_of_another_corpus_is_refused(questions: Path, tmp_path: Path) -> None:
    run = settings(questions, tmp_path / "out", fit=SMALL["fit"] | {"checkpoint_minutes": 1e-9})
    with pytest.raises(StopError):
        train(run, stop_at(1, 10))
    pairs = generate_pairs(300, seed=5)
    other = write_corpus(tmp_path / "other", pairs[30:], pairs[:30])
    with pytest.raises(ConfigError, match="checkpoint of another corpus; give --restart"):
        train(run.model_copy(update={"corpus": str(other)}), ignore)
    with pytest.raises(ConfigError, match=r"other settings \(epochs was 2, is 1\)"):
        train(run.model_copy(update={"epochs": 1}), ignore)
    assert not (tmp_path / "out").exists()
    train(run.model_copy(update={"epochs": 1}), ignore, restart=True)
    assert artifacts.load(str(tmp_path / "out"), "translator").config["epochs"] == 1


def test_an_altered_checkpoint_is_refused_with_a_remedy(questions: Path, tmp_path: Path) -> None:
    run = settings(questions, tmp_path / "out", fit=SMALL["fit"] | {"checkpoint_minutes": 1e-9})
    with pytest.raises(StopError):
        train(run, stop_at(1, 10))
    newest = CheckpointStore(locate(tmp_path / "out.run" / "checkpoints")).latest()
    assert newest is not None
    file = Path(newest.path) / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"(?s)tensors.safetensors: was altered.*delete this"):
        train(run, ignore)


def test_a_write_that_fails_in_the_background_surfaces_and_keeps_the_last(tmp_path: Path) -> None:
    store = CheckpointStore(locate(tmp_path / "checkpoints"))
    snapshot = Snapshot({"model.w": torch.ones(3)}, {"progress": {}})
    store.save(snapshot, 1, ())
    store.wait()
    (tmp_path / "checkpoints" / "step-000000002").write_text("in the way")
    store.save(snapshot, 2, ())
    with pytest.raises((ArtifactError, StorageError), match="step-000000002"):
        store.wait()
    assert torch.equal(store.read(store.at(1)).tensors["model.w"], torch.ones(3))


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    store = CheckpointStore(locate(tmp_path / "checkpoints"), keep=2)
    for step in range(1, 6):
        store.save(Snapshot({"model.w": torch.ones(1)}, {}), step, wanted={2})
    store.wait()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000002", "step-000000004", "step-000000005"]


def test_a_notice_that_a_node_leaves_saves_at_once_and_then_often(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, seconds_between: float) -> list[int]:
        monkeypatch.setattr("seqvis.training.fit.NOTICE_SECONDS", seconds_between)
        steps: list[None] = []

        def leaving() -> bool:
            steps.append(None)  # once a step
            return len(steps) >= 7

        chosen = settings(questions, tmp_path / name, epochs=1).resolved()
        events: list[dict[str, Any]] = []
        train_worker(chosen, Workers(leaving=leaving), events.append)
        notes = [event["text"] for event in events if event["event"] == "note"]
        assert notes == ["a node is about to be taken away: saving a checkpoint at step 7"]
        folder = tmp_path / f"{name}.run" / "checkpoints"
        return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())

    saved = run("once", 1e9)
    assert saved[0] == 7
    assert len(saved) == 2  # that, and the epoch's
    assert run("often", 0.0) == [saved[-1] - 1, saved[-1]]  # each step; the last two are kept


def test_training_stops_early_and_keeps_the_best_epoch(questions: Path, tmp_path: Path) -> None:
    fit = SMALL["fit"] | {"monitor": "bleu", "patience": 1}
    still = {"learning_rate": 1e-12}  # nothing is learnt, so no epoch beats the first
    metrics = train(
        settings(questions, tmp_path / "out", epochs=9, fit=fit, optimizer=still), ignore
    )
    assert metrics["epoch"] == 2  # equal to the first, and later
    assert len(list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))) == 2


def test_a_loss_that_is_not_finite_stops_with_advice(questions: Path, tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "clip_norm": 0}
    with pytest.raises(
        TrainingError, match=r"not finite .* lower --optimizer.learning-rate \(now 1e"
    ):
        train(settings(questions, tmp_path / "out", optimizer=wild), ignore)
    assert not (tmp_path / "out").exists()


def test_an_unknown_monitor_is_named_with_those_there_are(questions: Path, tmp_path: Path) -> None:
    fit = SMALL["fit"] | {"monitor": "blue"}
    with pytest.raises(
        ConfigError,
        match="blue is not a validation metric; choose from accuracy, attention_entropy, bleu",
    ):
        train(settings(questions, tmp_path / "out", epochs=1, fit=fit), ignore)


def test_a_finished_translator_is_given_more_epochs(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit = SMALL["fit"] | {"monitor": "forced_loss"}
    train(settings(questions, out, epochs=1, fit=fit), ignore)
    before = weights(out)
    notes: list[str] = []
    batches = SMALL["batches"] | {"size": 65}
    with pytest.raises(ConfigError, match=r"other settings \(batches.size was 64, is 65\)"):
        train(settings(questions, out, epochs=2, fit=fit, batches=batches), ignore)
    assert weights(out) == before
    changed = settings(questions, out, epochs=2, fit=fit | {"patience": 1}, samples=2)
    assert train(changed, lambda event: notes.append(event.get("text", "")))["epoch"] == 2
    assert any("--epochs was 1, is 2" in note for note in notes)
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["learning_rate"] == rows[1]["learning_rate"]
    assert weights(out) != before
    assert [row["teacher_forcing"] for row in rows] == ["1.0", "0.9"]
    assert {"momentum", "learning_rate"} <= rows[0].keys()
    artifact = artifacts.load(str(out), "translator")
    assert "tok:13a|" in artifact.metrics["signature"]
    assert artifact.config["epochs"] == 2


def test_words_without_a_vector_are_counted_and_some_are_named(
    questions: Path, tmp_path: Path
) -> None:
    words = [
        word
        for word in (questions / "target.vocab").read_text().split("\n")
        if word and not word.startswith("_")
    ]
    file = tmp_path / "some.vec"
    numbers = " ".join(["1.5"] * 32)
    known = [word for word in words[:50] if word != "where"]
    file.write_text(f"{len(known)} 32\n" + "".join(f"{word} {numbers}\n" for word in known))
    build_store(open_source("vec", str(file)), str(tmp_path / "vectors"), {})
    vectors = str(tmp_path / "vectors")
    task = TranslationTask(settings(questions, tmp_path / "x", vectors_target=vectors).resolved())
    missing = [word for word in words if word not in known and word.lower() not in known]
    assert task.begins_at_random() == [
        f"--vectors-target: {len(missing):,} of {len(words):,} words have no vector and begin at "
        f"random, such as {', '.join(missing[:5])}"
    ]
    notes: list[str] = []

    def stop(event: dict[str, Any]) -> None:
        notes.append(event.get("text", ""))
        raise StopError

    with pytest.raises(StopError):
        train(settings(questions, tmp_path / "out", vectors_target=vectors), stop)
    assert notes == task.begins_at_random()
    file.write_text(f"1 32\nнет {numbers}\n")
    build_store(open_source("vec", str(file)), str(tmp_path / "other"), {})
    other = settings(questions, tmp_path / "out", vectors_source=str(tmp_path / "other"))
    with pytest.raises(DataError, match="--vectors-source: has a vector for none of the corpus's"):
        train(other, ignore)


@pytest.mark.slow
def test_the_finder_suggests_a_rate_and_draws_it(questions: Path, tmp_path: Path) -> None:
    tried: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "finder":
            tried.append(event["rate"])

    finder = FinderSettings(lowest=1e-4, highest=0.5, steps=40)
    result = find_rate(settings(questions, tmp_path / "out"), finder, listen)
    assert result["learning_rate"] in [pytest.approx(rate, rel=0.1) for rate in tried]
    assert tried[0] == 1e-4
    factors = {round(second / first, 6) for first, second in pairwise(tried)}
    assert factors == {round(5000 ** (1 / 39), 6)}
    assert (tmp_path / "out.run" / "learning_rates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_label_smoothing_activation_penalties_and_padding_change_the_loss(
    questions: Path, tmp_path: Path
) -> None:
    trained = set()
    for number, change in enumerate(
        (
            {},
            {"loss": {"label_smoothing": 0.2}},
            {"loss": {"count_padding": True}},
            {"model": SMALL["model"] | {"dropout": {"activation": 2.0}}},
            {"model": SMALL["model"] | {"dropout": {"temporal_activation": 1.0}}},
        )
    ):
        out = tmp_path / str(number)
        train(settings(questions, out, epochs=1, **change), ignore)
        trained.add(weights(out))
    assert len(trained) == 5


def test_each_row_is_in_one_batch_of_an_epoch_and_epochs_differ(questions: Path) -> None:
    table = load_pairs(artifacts.load(str(questions), "corpus"), "train")
    for choice in (BatchSettings(size=32), BatchSettings(size=300, unit="tokens")):
        plans = [plan_epoch(table, choice, seed=1, epoch=epoch) for epoch in (0, 1, 0)]
        for plan in plans:
            rows = [int(row) for batch in plan for row in batch]
            assert sorted(rows) == list(range(len(table)))
        assert [b.tolist() for b in plans[0]] == [b.tolist() for b in plans[2]]
        assert [b.tolist() for b in plans[0]] != [b.tolist() for b in plans[1]]
        lengths = [table.target.lengths[batch] for batch in plans[0]]
        if choice.unit == "tokens":
            assert max(int(batch.max()) * len(batch) for batch in lengths) <= 300
        spread = sum(float(batch.max() - batch.min()) for batch in lengths) / len(lengths)
        assert spread < 2  # random batches of this size spread over about 6 words


def test_workers_share_a_batch_and_the_cursor_resumes_it(questions: Path) -> None:
    table = load_pairs(artifacts.load(str(questions), "corpus"), "train")
    choice = BatchSettings(size=50)
    plan = plan_epoch(table, choice, seed=0, epoch=0)
    whole = [make_batch(table, rows) for rows in plan]
    shares = [[make_batch(table, rows, worker, 3) for rows in plan] for worker in range(3)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert sum(len(part.source.ids) for part in parts) == len(batch.source.ids)
        assert {part.target_words for part in parts} == {batch.target_words}
        assert sum(int((part.target != 1).sum()) for part in parts) == batch.target_words
    settings = TrainSettings(corpus=str(questions), out="unused", batches=choice)
    task = TranslationTask(settings.resolved())
    whole = list(task.batches(0, 0, Workers()))
    resumed = list(TranslationTask(settings.resolved()).batches(0, 7, Workers()))
    assert all(
        torch.equal(a.source.ids, b.source.ids) for a, b in zip(whole[7:], resumed, strict=True)
    )


def test_a_worker_without_a_row_takes_part_with_no_words(questions: Path) -> None:
    table = load_pairs(artifacts.load(str(questions), "corpus"), "train")
    rows = plan_epoch(table, BatchSettings(size=2), 0, 0)[0][:1]
    batch = make_batch(table, rows, worker=1, workers=2)
    assert int((batch.target != 1).sum()) == 0
    assert batch.target_words == int(table.target.lengths[rows].sum())


def test_the_cycle_is_the_lessons_use_clr_20_10() -> None:
    cycle = OptimizerSettings(learning_rate=3e-3, cyclical_momentum=True)
    assert learning_rate(cycle, 0.0) == pytest.approx(3e-3 / 20)
    assert learning_rate(cycle, 0.1) == pytest.approx(3e-3)
    assert learning_rate(cycle, 0.55) == pytest.approx((3e-3 + 3e-3 / 20) / 2)
    assert learning_rate(cycle, 1.0) == pytest.approx(3e-3 / 20)
    assert [momentum(cycle, share) for share in (0, 0.1, 1)] == pytest.approx([0.8, 0.7, 0.8])


def test_precision_is_refused_where_the_hardware_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqvis.training.step import product_type

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert product_type("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(ConfigError, match="bfloat16 is not supported"):
        product_type("bfloat16", torch.device("cpu"))
    assert FitSettings().precision == "auto"


def test_a_run_that_its_listener_stops_goes_on_to_the_same_weights(
    questions: Path, tmp_path: Path
) -> None:
    train(settings(questions, tmp_path / "whole"), ignore)

    def stop_at_first(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            raise StopTraining

    assert train(settings(questions, tmp_path / "parts"), stop_at_first, stoppable=True) == {}
    assert not (tmp_path / "parts").exists()
    events: list[dict[str, Any]] = []
    assert train(settings(questions, tmp_path / "parts"), events.append)["epoch"] in (1, 2)
    resumed = next(event for event in events if event["event"] == "resumed")
    assert resumed["history"][0]["epoch"] == 1
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_a_run_goes_on_from_another_ones_checkpoint_with_other_dropout(
    questions: Path, tmp_path: Path
) -> None:
    def stop_at_first(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            raise StopTraining

    donor = settings(questions, tmp_path / "donor")
    train(donor, stop_at_first, stoppable=True)
    rates = {**SMALL["model"], "dropout": {"output": 0.6}}
    child = settings(questions, tmp_path / "child", model=rates)
    stores = [
        CheckpointStore(locate(tmp_path / f"{name}.run" / "checkpoints"))
        for name in ("donor", "child")
    ]
    stores[1].adopt(stores[0], child.identity())
    events: list[dict[str, Any]] = []
    train(child, events.append)
    history = [event["history"] for event in events if event["event"] == "epoch"]
    assert len(history) == 1  # the second epoch alone was trained
    assert [row["epoch"] for row in history[0]] == [1, 2]
    assert artifacts.load(str(tmp_path / "child"), "translator").config["model"]["dropout"][
        "output"
    ] == pytest.approx(0.6)
