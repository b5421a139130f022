"""The study in an Optuna storage, for Optuna's own tools: `optuna-dashboard sqlite:///OUT/optuna.db`.

The storage is written from the records, and nothing is decided by it. What it lacks after a kill is
added when the search goes on, and what it has is not added again.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from tune.study.records import Status, Trial
from tune.study.space import Parameter
from tune.study.study import Study

FILE = "optuna.db"
_STATES: dict[Status, TrialState] = {
    "open": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_LOCK_SECONDS = 30  # that a dashboard may hold the file


@contextmanager
def optuna_storage(study: Study) -> Iterator[Callable[[], None]]:
    """Yield a function that brings `OUT/optuna.db` up to date, as both ends of the block do.

    In an object store, where SQLite cannot write, the file appears at the end. A storage that fails
    is reported on standard error, once, and ends nothing.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = study.out / FILE
        path = Path(place.path if place.is_local else f"{temporary}/{FILE}")
        opened: list[OptunaStorage] = []
        failed = False

        def update() -> None:
            nonlocal failed
            if failed:
                return
            try:
                if not opened:
                    opened.append(OptunaStorage(study, path))
                opened[0].update()
            except Exception as error:
                failed = True
                print(
                    f"warning: {place.uri}: cannot be written ({error}); the search goes on "
                    f"without it, and the same command adds what it lacks",
                    file=sys.stderr,
                    flush=True,
                )

        update()
        try:
            yield update
        finally:
            update()
            if not place.is_local and not failed:
                place.replace(path.read_bytes())


class OptunaStorage:
    """An SQLite file that holds one study, named by the kind of its models."""

    def __init__(self, study: Study, path: Path):
        """Open the file, or make it. Raises what Optuna raises if it cannot be used."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = study
        self._storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}}
        )
        name, mode = study.model.artifact, study.settings.mode
        stored = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="minimize" if mode == "min" else "maximize",
            load_if_exists=True,
        )
        facts = {"metric": study.settings.metric, "algorithm": study.settings.algorithm}
        for key, value in {**facts, **study.space.fixed}.items():
            stored.set_user_attr(key, value)
        self._study_id = self._storage.get_study_id_from_name(name)
        self._distributions = {each.path: distribution(each) for each in study.space.parameters}
        self._ids: dict[str, int] = {}  # in the storage, by the trial's name
        self._results: dict[str, int] = {}  # that the storage has
        self._ended: set[str] = set()
        for trial in stored.trials:
            number = self._storage.get_trial_id_from_study_id_trial_number(
                self._study_id, trial.number
            )
            results, ended = len(trial.intermediate_values), trial.state.is_finished()
            self._note(trial.user_attrs.get("trial", ""), number, results, ended)

    def update(self) -> None:
        """Add what has happened since the last call. Raises what Optuna raises."""
        for trial in self.study.trials:
            if trial.name in self._ended:
                continue
            if trial.name in self._ids:
                self._change(trial, self._ids[trial.name])
            else:
                added = self._frozen(trial)
                self._ids[trial.name] = self._storage.create_new_trial(self._study_id, added)
            self._note(
                trial.name, self._ids[trial.name], len(trial.results), trial.status != "open"
            )

    def _note(self, name: str, number: int, results: int, ended: bool) -> None:
        self._ids[name], self._results[name] = number, results
        if ended:
            self._ended.add(name)

    def _change(self, trial: Trial, number: int) -> None:
        for result in trial.results[self._results[trial.name] :]:
            self._storage.set_trial_intermediate_value(number, result.epoch, result.metric)
        if trial.status != "open":
            for name, value in self._attributes(trial).items():
                self._storage.set_trial_user_attr(number, name, value)
            value = self._value(trial)
            values = None if value is None else [value]
            self._storage.set_trial_state_values(number, _STATES[trial.status], values)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        now = datetime.now()
        return FrozenTrial(
            number=-1,  # the storage's to say, as the id
            trial_id=-1,
            state=_STATES[trial.status],
            value=self._value(trial),
            datetime_start=now - timedelta(seconds=trial.seconds),
            datetime_complete=None if trial.status == "open" else now,
            params={path: trial.config[path] for path in self._distributions},
            distributions=self._distributions,
            user_attrs=self._attributes(trial),
            system_attrs={},
            intermediate_values={result.epoch: result.metric for result in trial.results},
        )

    def _value(self, trial: Trial) -> float | None:
        counts = trial.status in ("finished", "stopped") and trial.results
        return trial.best(self.study.settings.mode) if counts else None

    def _attributes(self, trial: Trial) -> dict[str, Any]:
        attributes: dict[str, Any] = {"trial": trial.name, "seconds": round(trial.seconds, 1)}
        if trial.origin:
            attributes["parent"] = trial.origin.donor
        if trial.errors:
            attributes["error"] = trial.errors[-1]
        return attributes


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return the range of a searched setting in Optuna's terms."""
    if parameter.form == "choice":
        return CategoricalDistribution(parameter.values)
    low, high = parameter.values
    if parameter.form == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=parameter.form == "log_uniform")
