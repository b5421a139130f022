"""The search space: which settings are searched, in which range, and which are fixed.

docs/train/tuning.md, "The space", has the format of its YAML file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Domain

from seqvis.config import Settings, merge, read_yaml, settings_from
from seqvis.errors import ConfigError
from tune.study.settings import TunableModel

_NOT_SEARCHED = ("fit.monitor", "finetune.images")
_FORMS = ("uniform", "log_uniform", "int", "choice")
Config = dict[str, Any]  # dotted names and values


@dataclass(frozen=True)
class Parameter:
    """A searched setting."""

    path: str
    form: str
    values: tuple[Any, ...]  # low and high, or the choices

    def domain(self) -> Domain:
        """Return the range in Ray Tune's terms."""
        if self.form == "choice":
            return tune.choice(list(self.values))
        low, high = self.values
        if self.form == "int":
            return tune.randint(low, high + 1)
        return tune.uniform(low, high) if self.form == "uniform" else tune.loguniform(low, high)

    def sample(self, generator: np.random.Generator) -> Any:
        if self.form == "choice":  # by index: NumPy would turn mixed choices into strings
            return self.values[int(generator.integers(len(self.values)))]
        return self.clean(self.domain().sample(random_state=generator))

    def clean(self, value: Any) -> Any:
        """Return a plain number within the range, with the four digits that YAML will show."""
        if self.form == "choice":
            return value
        low, high = self.values
        number = round(value) if self.form == "int" else float(f"{value:.4g}")
        return min(high, max(low, number))


@dataclass(frozen=True)
class Space:
    """The searched and fixed settings, over a whole tree of settings from flags and presets."""

    parameters: tuple[Parameter, ...]
    fixed: Config
    base: Mapping[str, Any]

    def given(self, path: str) -> Any:
        """Return the value of a setting that is not searched, by its dotted name."""
        value: Any = self.tree({}, "")
        for name in path.split("."):
            value = value[name]
        return value

    def tree(self, config: Mapping[str, Any], out: str) -> dict[str, Any]:
        """Return all settings of a trial that writes to `out`."""
        return merge(self.base, _nest({**self.fixed, **config, "out": out}))

    def settings(self, model: TunableModel, config: Mapping[str, Any], out: str) -> Settings:
        """Validate a trial's settings. Raises ConfigError if they contradict each other."""
        tree = self.tree(config, out)
        settings: Settings = settings_from(model.settings, tree, "the proposed settings")
        return settings

    def random(self, seed: int, number: int) -> Config:
        """Draw the `number`th random configuration; it does not depend on earlier draws."""
        generator = np.random.default_rng([seed, number])
        return {parameter.path: parameter.sample(generator) for parameter in self.parameters}

    def as_dict(self) -> dict[str, Any]:
        searched = {each.path: {each.form: list(each.values)} for each in self.parameters}
        return {**searched, **self.fixed}


def load_space(file: str, model: TunableModel, base: Mapping[str, Any], metric: str) -> Space:
    """Read and check a space. `base` is the tree of settings that it changes.

    Both ends of each range and each choice are checked against the model's own settings.
    Raises ConfigError with one line for each problem in the file.
    """
    base = merge(base, {"fit": {"monitor": metric}})
    parameters: list[Parameter] = []
    fixed: Config = {}
    problems: list[str] = []
    for path, given in read_yaml(file).items():
        where = f"{file}: {path}"
        if path in model.paths or path == "out" or str(path).startswith(_NOT_SEARCHED):
            problems.append(f"{where}: cannot be searched; give it as a flag")
        elif str(path).startswith("finetune.") and model.stage != "finetune":
            problems.append(f"{where}: needs --finetune.epochs, without which nothing is tuned")
        elif isinstance(given, dict):
            try:
                parameters.append(_parameter(str(path), given))
                problems += _refused(model, base, str(path), parameters[-1].values, where)
            except ConfigError as error:
                problems.append(f"{where}: {error}")
        else:
            fixed[str(path)] = given
            problems += _refused(model, base, str(path), (given,), where)
    if not parameters and not problems:
        problems.append(f"{file}: no setting has a range; see docs/train/tuning.md")
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
    try:  # YAML reads 1e-4, which has no point, as a string
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"the ends of a range are numbers (given: {value!r})")
    return number


def _refused(
    model: TunableModel, base: Mapping[str, Any], path: str, values: tuple[Any, ...], where: str
) -> list[str]:
    """Return the model's objections to these values of a setting, each once."""
    objections: dict[str, None] = {}
    for value in values:
        try:
            settings_from(model.settings, merge(base, _nest({path: value, "out": "out"})), where)
        except ConfigError as error:
            objections[str(error)] = None
    return list(objections)


def _nest(config: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in config.items():
        for name in reversed(path.split(".")):
            value = {name: value}
        tree = merge(tree, value)
    return tree
