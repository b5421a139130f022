"""What a search decides and remembers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from seqvis import artifacts
from seqvis.devise.settings import DeviseSettings
from seqvis.errors import ConfigError
from tests.support.played import SPACE, choices, open_search, outcome, play
from tune.report.__main__ import main as make_report
from tune.study.ray_tune import Resources, run_trial
from tune.study.run import finish, sweep, write_tables
from tune.study.settings import FINETUNED, MODELS, TRANSLATOR
from tune.study.space import Space, load_space


def test_a_trial_that_fine_tunes_reports_these_epochs_and_not_its_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[Any] = []
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "0")  # run_trial sets it
    monkeypatch.setattr("tune.study.ray_tune.tune.report", reported.append)

    def train(settings: Any, listen: Any, *_: Any, **__: Any) -> None:
        for stage, loss in (("head", 0.9), ("finetune", 0.7)):
            row = {"epoch": 1, "loss": loss, "seconds": 2.0}
            listen({"event": "epoch", "stage": stage, "history": [row], "best_epoch": 1})

    monkeypatch.setitem(MODELS, "devise", replace(FINETUNED, train=train))
    settings = DeviseSettings(features="f", vectors="v", out="o").model_dump()
    config = {"model": "devise", "stage": "finetune", "settings": settings, "metric": "loss"}
    run_trial(config | {"epoch": 0, "until": 1, "epochs": 1, "workers": {"workers": 1}})
    values = [result.get("values") for result in reported]
    assert values == [(1, 0.7, 2.0), None]
    assert reported[-1] == {"event": "finished"}


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_a_search_that_is_reopened_knows_what_the_lost_one_knew(
    tmp_path: Path, space: Space, algorithm: str
) -> None:
    settings = choices(algorithm=algorithm)
    search = open_search(tmp_path / "out", space, settings)
    for _ in play(search):
        again = open_search(tmp_path / "out", space, settings)
        assert again.halving is not None
        assert search.halving is not None
        assert again.halving.rungs() == search.halving.rungs()
        assert json.loads((tmp_path / "out" / "rungs.json").read_text()) == again.halving.rungs()
        assert outcome(again) == outcome(search)
    ends = [trial.status for trial in search.trials]
    assert len(ends) == 12
    assert {"finished", "stopped"} == set(ends)
    # What it would have proposed next, it proposes.
    more = choices(algorithm=algorithm, trials=14)
    expected = search.sampler.propose("t0013", 12)
    proposed = open_search(tmp_path / "out", space, more).next()
    assert proposed is not None
    assert (proposed.name, proposed.config) == ("t0013", expected)


def test_halving_gives_a_third_of_the_trials_three_times_the_epochs(
    tmp_path: Path, space: Space
) -> None:
    search = open_search(tmp_path / "out", space, choices(trials=60))
    for _ in play(search):
        pass
    assert search.halving is not None
    reached = {int(rung): len(trials) for rung, trials in search.halving.rungs().items()}
    assert reached[1] == 60
    # Early ones are let through for want of others to compare with: more than a third, not half.
    assert 60 / 3 <= reached[3] <= 60 / 2
    best = search.best()
    assert best is not None
    assert best.status == "finished"
    assert best.best("min") == min(trial.best("min") for trial in search.trials)


def test_tpe_learns_where_random_does_not(tmp_path: Path, space: Space) -> None:
    space = replace(space, fixed={"epochs": 1})
    means = {}
    for algorithm in ("random", "tpe"):
        settings = choices(algorithm=algorithm, trials=40, early_stopping=False)
        search = open_search(tmp_path / algorithm, space, settings)
        for _ in play(search):
            pass
        late = [trial.best("min") for trial in search.trials][20:]
        means[algorithm] = sum(late) / len(late)
    # Independent draws of the dropout have the mean 0.25; half of it cannot be met by chance.
    assert means["tpe"] < means["random"] / 2


def test_a_trial_that_fails_is_tried_again_then_reported(tmp_path: Path, space: Space) -> None:
    search = open_search(tmp_path / "out", space, choices(trials=5, retries=2))
    for _ in play(search, fails="t0002"):
        pass
    failed = search.records["t0002"]
    assert (failed.status, failed.errors) == ("failed", ["it broke"] * 3)
    assert [trial.status for trial in search.trials].count("failed") == 1
    write_tables(search)
    row = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()[1]
    assert (row["status"], row["error"], row["epochs"]) == ("failed", "it broke", 0)
    assert row["metric"] != row["metric"]  # NaN
    assert row["config/model.hidden_size"] in (16, 24)


def test_a_search_of_which_everything_fails_is_given_up(tmp_path: Path, space: Space) -> None:
    search = open_search(tmp_path / "out", space, choices(trials=50, retries=0))
    while (trial := search.next()) is not None:
        search.failed(trial.name, "no such corpus")
    assert len(search.records) == 3
    # The cause mended, the same command goes on.
    again = open_search(tmp_path / "out", space, choices(trials=50, retries=0))
    assert again.next() is not None


def test_a_loss_that_is_not_finite_fails_its_trial(tmp_path: Path, space: Space) -> None:
    search = open_search(tmp_path / "out", space, choices(retries=0))
    trial = search.next()
    assert trial is not None
    assert not search.result(trial.name, 1, float("nan"), 1.0)
    assert trial.status == "failed"
    assert "loss is nan after epoch 1" in trial.errors[0]


def test_as_many_trials_run_as_shares_of_the_gpus_fit() -> None:
    have = {"CPU": 16.0, "GPU": 2.0, "memory": 64e9}
    shared = {"use_gpu": True, "gpus_per_worker": 0.25}
    alone = Resources(choices(num_workers=0, **shared), have)
    assert (alone.concurrent, alone.trial) == (8, {"CPU": 2, "GPU": 0.25})
    worker = Resources(choices(num_workers=1, **shared), have)
    assert (worker.concurrent, worker.workers["cpus_per_worker"]) == (8, 2)
    assert "GPU" not in worker.trial  # its worker asks for it
    assert Resources(choices(num_workers=2, use_gpu=True), have).concurrent == 1
    assert Resources(choices(num_workers=0), have).concurrent == 16


def test_budgets_of_hours_end_a_search_and_greater_ones_let_it_go_on(
    tmp_path: Path, space: Space
) -> None:
    means = {"use_gpu": True, "gpus_per_worker": 0.25, "gpu_hours": 1.0}
    search = open_search(tmp_path / "out", space, choices(**means))
    trial = search.next()
    assert trial is not None
    trial.seconds = 4 * 3600 - 60.0  # of a quarter of a GPU
    assert not search.over()
    trial.seconds += 120
    assert search.over()
    assert search.next() is None
    search.paused(trial.name)
    again = open_search(tmp_path / "out", space, choices(**means))
    assert again.over()
    more = open_search(tmp_path / "out", space, choices(**{**means, "gpu_hours": 2.0}))
    going_on = more.next()
    assert going_on is not None
    assert going_on.name == trial.name
    (tmp_path / "out" / "search.json").write_text(
        json.dumps(json.loads((tmp_path / "out" / "search.json").read_text()) | {"seconds": 7201})
    )
    assert open_search(tmp_path / "out", space, choices(hours=2.0)).over()


def test_another_search_in_the_same_place_is_refused(tmp_path: Path, space: Space) -> None:
    open_search(tmp_path / "out", space, choices()).next()
    with pytest.raises(ConfigError, match="holds a search with another algorithm, seed"):
        open_search(tmp_path / "out", space, choices(algorithm="tpe", seed=2))
    (tmp_path / "space.yaml").write_text(SPACE.replace("0.5", "0.4"))
    base = space.base
    other = load_space(str(tmp_path / "space.yaml"), TRANSLATOR, base, "loss")
    with pytest.raises(ConfigError, match="holds a search with another space"):
        open_search(tmp_path / "out", other, choices())


def test_checkpoints_stay_only_where_a_trial_may_go_on(tmp_path: Path, space: Space) -> None:
    settings = choices(algorithm="pbt", trials=4, interval=3)
    search = open_search(tmp_path / "out", space, settings)
    for _ in play(search):
        sweep(search)
        kept = {path.parts[-4] for path in (tmp_path / "out").glob("trials/*/model.run/*/step-*")}
        assert kept <= {trial.name for trial in search.trials if trial.status == "open"}
    assert not list((tmp_path / "out").glob("trials/*/model.run/checkpoints"))


def test_a_search_is_complete_without_its_report(
    tmp_path: Path,
    space: Space,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    search = open_search(out, space, choices(trials=3))
    assert list(play(search))
    best = search.best()
    assert best
    with artifacts.create(search.records.model(best.name), "translator", {}):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("too many trees")

    with monkeypatch.context() as without:
        without.setattr("tune.study.run.write_report", fail)
        result = finish(search)
    assert (result["report"], result["important"]) == (None, [])
    assert (result["best_trial"], result["best_model"]) == (best.name, str(out / "best"))
    (reason,) = result["refused"]
    assert capsys.readouterr().err == f"warning: {reason}\n"
    assert "(MemoryError: too many trees)" in reason
    assert artifacts.load(str(out / "best"), "translator")
    assert pq.read_table(out / "trials.parquet").num_rows == 3
    assert (out / "best.yaml").exists()

    assert make_report(reason.partition("seqvis tune-report ")[2].split()) == 0
    assert (out / "report.html").exists()
