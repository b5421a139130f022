"""Optuna and its dashboard read a search, with trials that are played instead of trained."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import wsgi
from werkzeug.test import Client

from seqvis.storage import locate
from seqvis.translation.task import TrainSettings
from tests.support.objectstore import Bucket
from tests.support.played import EPOCHS, SPACE, choices, open_search, play
from tune.study.optuna_storage import OptunaStorage, optuna_storage
from tune.study.settings import TRANSLATOR
from tune.study.space import Space, load_space
from tune.study.study import Study

STATES = {
    "open": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "space.yaml").write_text(f"{SPACE}model.layers: {{int: [1, 3]}}\nsamples: 0\n")
    base = TrainSettings(corpus="c", out="o", epochs=EPOCHS).model_dump()
    return load_space(str(tmp_path / "space.yaml"), TRANSLATOR, base, "loss")


def stored(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/optuna.db")


def check(search: Study, study: optuna.Study) -> None:
    """The storage says of each trial what the records say, once."""
    assert [trial.user_attrs["trial"] for trial in study.trials] == list(search.records)
    for trial, record in zip(study.trials, search.trials, strict=True):
        assert trial.params == record.config
        assert trial.state == STATES[record.status]
        expected = {result.epoch: result.metric for result in record.results}
        assert trial.intermediate_values == expected
        if record.status in ("finished", "stopped"):
            assert trial.value == record.best("min")


def test_optuna_reads_what_the_records_say_while_the_search_runs(
    tmp_path: Path, space: Space
) -> None:
    search = open_search(tmp_path / "out", space, choices(trials=8))
    with optuna_storage(search) as store:
        for number, _ in enumerate(play(search, fails="t0003")):
            store()
            if number == 10:
                check(search, stored(tmp_path / "out"))
    study = stored(tmp_path / "out")
    check(search, study)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    best = search.best()
    assert best is not None
    assert study.best_trial.user_attrs["trial"] == best.name
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.user_attrs == {"metric": "loss", "algorithm": "random", "samples": 0}
    rate = study.trials[0].distributions["optimizer.learning_rate"]
    assert rate == optuna.distributions.FloatDistribution(0.001, 0.1, log=True)
    assert study.trials[2].user_attrs["error"] == "it broke"


@pytest.mark.parametrize(
    "method", ["create_new_trial", "set_trial_intermediate_value", "set_trial_state_values"]
)
def test_a_search_that_goes_on_after_a_kill_adds_what_is_missing_once(
    method: str, tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "optuna.db"
    search = open_search(tmp_path / "out", space, choices(trials=6))
    storage = OptunaStorage(search, path)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for number, _ in enumerate(play(search)):
        if number % 7 == 3:
            with monkeypatch.context() as patch:
                patch.setattr(optuna.storages.RDBStorage, method, killed)
                try:
                    storage.update()
                except KeyboardInterrupt:
                    storage = OptunaStorage(search, path)
        elif number % 3 == 0:
            storage.update()
    storage.update()
    check(search, stored(tmp_path / "out"))


def test_members_of_a_population_name_their_parents(tmp_path: Path, space: Space) -> None:
    search = open_search(tmp_path / "out", space, choices(algorithm="pbt", trials=4, interval=3))
    with optuna_storage(search) as store:
        for number, _ in enumerate(play(search)):
            if number % 10 == 0:
                store()
    study = stored(tmp_path / "out")
    check(search, study)
    parents = [trial.user_attrs.get("parent") for trial in study.trials]
    assert parents == [trial.origin and trial.origin.donor for trial in search.trials]
    assert any(parents)


def test_the_dashboard_shows_the_study(tmp_path: Path, space: Space) -> None:
    search = open_search(tmp_path / "out", space, choices(trials=3))
    with optuna_storage(search) as store:
        client = Client(wsgi(f"sqlite:///{tmp_path}/out/optuna.db"))
        for _ in play(search):
            store()
            shown = client.get("/api/studies").json["study_summaries"]
            assert [study["study_name"] for study in shown] == ["translator"]
    number = shown[0]["study_id"]
    detail = client.get(f"/api/studies/{number}", query_string={"after": 0}).json
    trials = detail["trials"]
    for trial, record in zip(trials, search.trials, strict=True):
        assert trial["state"] == STATES[record.status].name.capitalize()
        points = {point["step"]: point["value"] for point in trial["intermediate_values"]}
        assert points == {result.epoch: result.metric for result in record.results}
        values = {
            parameter["name"]: parameter["param_external_value"] for parameter in trial["params"]
        }
        assert values == {name: str(value) for name, value in record.config.items()}


def test_a_storage_that_cannot_be_written_is_reported_once_and_ends_nothing(
    tmp_path: Path, space: Space, capsys: pytest.CaptureFixture[str]
) -> None:
    search = open_search(tmp_path / "out", space, choices(trials=2))
    (tmp_path / "out" / "optuna.db").mkdir()
    with optuna_storage(search) as store:
        for _ in play(search):
            store()
    assert len(search.trials) == 2
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "optuna.db: cannot be written (" in said


def test_a_search_in_an_object_store_leaves_the_storage_at_its_end(
    bucket: Bucket, tmp_path: Path, space: Space
) -> None:
    search = Study(choices(trials=2), space, TRANSLATOR, locate(bucket.uri("out")))
    with optuna_storage(search):
        for _ in play(search):
            pass
    (tmp_path / "optuna.db").write_bytes(bucket.get("out/optuna.db"))
    check(search, stored(tmp_path))
