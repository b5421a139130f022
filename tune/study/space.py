"""The search space: which settings are searched, in which range, and which are fixed.

A YAML file of dotted names of settings. A plain value is fixed; a range is one of

    model.dropout.input: {uniform: [0.0, 0.5]}
    optimizer.learning_rate: {log_uniform: [0.001, 0.01]}
    model.decoder_layers: {int: [1, 2]}          # both ends included
    forcing.schedule: {choice: [linear, inverse_sigmoid]}

Everything that is wrong in the file is told at once: unknown settings, bad ranges, values that the
setting itself refuses. Proposed numbers have four significant digits, so that a configuration
written as YAML is exactly what was trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Domain

from seqvis.config import Settings, merge, read_yaml, settings_from
from seqvis.errors import ConfigError
from tune.study.settings import Kind

_NOT_SEARCHED = ("fit.monitor", "finetune.")
_FORMS = ("uniform", "log_uniform", "int", "choice")
Config = dict[str, Any]  # dotted names and values


@dataclass(frozen=True)
class Parameter:
    """One searched setting."""

    path: str
    form: str
    values: tuple[Any, ...]  # low and high, or the choices

    def domain(self) -> Domain:
        """In Ray Tune's terms, from which Optuna's are made."""
        if self.form == "uniform":
            return tune.uniform(*self.values)
        if self.form == "log_uniform":
            return tune.loguniform(*self.values)
        if self.form == "int":
            return tune.randint(self.values[0], self.values[1] + 1)
        return tune.choice(list(self.values))

    def sample(self, generator: np.random.Generator) -> Any:
        if self.form == "choice":  # by its number, since NumPy would turn the choices into texts
            return self.values[int(generator.integers(len(self.values)))]
        return self.clean(self.domain().sample(random_state=generator))

    def clean(self, value: Any) -> Any:
        """`value` as a plain number within the range, with four significant digits."""
        if self.form == "choice":
            return value
        low, high = self.values
        if self.form == "int":
            return int(min(high, max(low, round(value))))
        return min(high, max(low, float(f"{value:.4g}")))


@dataclass(frozen=True)
class Space:
    """What is searched, over what."""

    parameters: tuple[Parameter, ...]
    fixed: Config
    base: Mapping[str, Any]  # a whole tree of settings, from flags and presets

    def tree(self, config: Mapping[str, Any], out: str) -> dict[str, Any]:
        """All settings of a trial that writes to `out`."""
        return merge(self.base, _nest({**self.fixed, **config, "out": out}))

    def settings(self, kind: Kind, config: Mapping[str, Any], out: str) -> Settings:
        """Of a trial. Raises ConfigError if they do not go together."""
        tree = self.tree(config, out)
        settings: Settings = settings_from(kind.settings, tree, "the proposed settings")
        return settings

    def random(self, seed: int, number: int) -> Config:
        """The `number`th random configuration, whatever was drawn before."""
        generator = np.random.default_rng([seed, number])
        return {one.path: one.sample(generator) for one in self.parameters}

    def as_dict(self) -> dict[str, Any]:
        searched = {one.path: {one.form: list(one.values)} for one in self.parameters}
        return {**searched, **self.fixed}


def load_space(file: str, kind: Kind, base: Mapping[str, Any], metric: str) -> Space:
    """Reads and checks a space. `base` is the tree that it changes.

    Raises ConfigError with one line for everything that is wrong.
    """
    base = merge(base, {"fit": {"monitor": metric}})
    parameters: list[Parameter] = []
    fixed: Config = {}
    problems: list[str] = []
    for path, given in read_yaml(file).items():
        where = f"{file}: {path}"
        if path in kind.paths or path == "out" or str(path).startswith(_NOT_SEARCHED):
            problems.append(f"{where}: cannot be searched; give it as a flag")
            continue
        try:
            if isinstance(given, dict):
                parameters.append(_parameter(str(path), given))
                candidates = list(parameters[-1].values)
            else:
                fixed[str(path)] = given
                candidates = [given]
        except ConfigError as error:
            problems.append(f"{where}: {error}")
            continue
        problems += _refused(kind, base, str(path), candidates, where)
    if not parameters and not problems:
        problems.append(f"{file}: no setting has a range; see docs/tuning.md")
    if problems:
        raise ConfigError("\n".join(problems))
    return Space(tuple(parameters), fixed, base)


def _parameter(path: str, given: Mapping[str, Any]) -> Parameter:
    if len(given) != 1 or next(iter(given)) not in _FORMS:
        raise ConfigError(f"needs a plain value or one of {', '.join(_FORMS)} (given: {given})")
    form, values = next(iter(given.items()))
    if not isinstance(values, list) or len(values) < 2:
        raise ConfigError(f"{form} needs a list of at least two values (given: {values})")
    if form == "choice":
        if any(isinstance(value, (list, dict)) for value in values):
            raise ConfigError("choices are plain values")
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"names a choice twice (given: {values})")
        return Parameter(path, form, tuple(values))
    numbers = tuple(_number(value) for value in values)
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ConfigError(f"{form} needs the low and the high end, in this order (given: {values})")
    if form == "log_uniform" and numbers[0] <= 0:
        raise ConfigError(f"log_uniform needs ends above 0 (given: {values})")
    if form == "int":
        if any(number != int(number) for number in numbers):
            raise ConfigError(f"int needs whole numbers (given: {values})")
        return Parameter(path, form, tuple(int(number) for number in numbers))
    return Parameter(path, form, numbers)


def _number(value: Any) -> float:
    """YAML reads 1e-4, which has no point, as a text."""
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not np.isfinite(number):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"the ends of a range are numbers (given: {value!r})") from None
    return number


def _refused(
    kind: Kind, base: Mapping[str, Any], path: str, candidates: list[Any], where: str
) -> list[str]:
    """What the setting itself has against these values, the same objection once."""
    found: list[str] = []
    for value in candidates:
        tree = merge(base, _nest({path: value, "out": "out"}))
        try:
            settings_from(kind.settings, tree, where)
        except ConfigError as error:
            if str(error) not in found:
                found.append(str(error))
    return found


def _nest(config: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in config.items():
        *parents, name = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree
