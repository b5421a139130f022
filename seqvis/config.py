"""Settings: strict, typed, read from YAML and from stored values, with all errors at once.

Each component declares its own `Settings` next to its code; a job nests them into one tree
(`seqvis.cli.job`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from seqvis import encodings
from seqvis.errors import ConfigError, DataError, SeqvisError, did_you_mean


class Settings(BaseModel):
    """Base of a component's settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MayChange(Enum):
    """Whether a run may go on with another value of a setting than it was begun with.

    It stands in the type of the setting, as in `Annotated[int, MayChange.FREELY]`, or of a group,
    for whose settings it holds unless they say otherwise. Without it, NEVER.
    """

    FREELY = "freely"  # nothing that was learnt depends on it
    ELSEWHERE = "elsewhere"  # the model that a run begins from may have moved, but is the same
    IF_ASKED = "if asked"  # the weights allow it, but more often it is a mistake
    NEVER = "never"  # shapes, and what results are measured by


GIVEN = "given"  # what `lasting` returns of a model that may have moved

_SHIPPED = ("jobs/presets/", "tune/spaces/")  # a wheel has them as well


def may_change(cls: type[BaseModel], name: str) -> MayChange:
    """Return what the setting with this dotted name says of itself, or else its group."""
    mark, path = MayChange.NEVER, name.split(".")
    for place, part in enumerate(path):
        mark = _mark(_fields_at(cls, path[:place])[part], mark)
    return mark


def lasting(
    settings: Settings, without: Collection[str] = (), group: MayChange = MayChange.NEVER
) -> dict[str, Any]:
    """Return the values of all settings that may not change freely, leaving out `without`.

    `group`: what holds where a setting says nothing.
    """
    values: dict[str, Any] = {}
    for name in type(settings).model_fields.keys() - set(without):
        mark, value = _mark(type(settings).model_fields[name], group), getattr(settings, name)
        if isinstance(value, Settings):
            values[name] = lasting(value, group=mark)
        elif mark is MayChange.ELSEWHERE:
            values[name] = GIVEN if value else "not given"
        elif mark is not MayChange.FREELY:
            values[name] = value
    return values


def _mark(field: FieldInfo, group: MayChange) -> MayChange:
    return next((mark for mark in field.metadata if isinstance(mark, MayChange)), group)


Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""Texts, of which a single one may stand alone in YAML and in Python."""
OneOrMore = Annotated[Texts, Field(min_length=1)]


def settings_from(cls: type[Settings], values: Any, where: str, flags: bool = True) -> Any:
    """Build `cls` from stored values (a manifest), or, without `flags`, from a call's arguments.

    Raises ConfigError that names `where`, all settings that are wrong, and what was given.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = explain(error, cls, flags, with_values=True)
        raise ConfigError(f"{where}: {'; '.join(problems)}") from error


def read_yaml(path: str) -> dict[str, Any]:
    """Return the keys and values of a YAML file at a path or URI.

    Raises ConfigError if it has none or cannot be read, DataError or StorageError if an object
    store does not give it.
    """
    try:
        raw = _read(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; --config needs a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    content = _parse_yaml(raw, path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs keys and values at its top level")
    return content


def load_yaml(path: str) -> Any:
    """Return what a YAML or JSON file of a path or URI holds. Raises ConfigError."""
    from seqvis.storage import locate  # loads PyArrow, which most settings do not need

    try:
        content = locate(path).read_bytes()
    except (SeqvisError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ConfigError(f"{path}: cannot be read ({reason})") from error
    return _parse_yaml(content, path)


def _parse_yaml(content: bytes, path: str) -> Any:
    try:
        return yaml.load(encodings.decode(content, path), _StrictLoader)
    except DataError as error:
        raise ConfigError(str(error)) from error
    except (yaml.YAMLError, ValueError) as error:  # such as a 31st of February
        raise ConfigError(f"{path}: not valid YAML ({error})") from error


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that occurs twice in a mapping; YAML itself silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def shipped(path: str) -> str:
    """Return where a file is: at `path`, or with seqvis if it ships it and there is none here."""
    ours = Path(__file__).parents[1] / path
    return str(ours) if path.startswith(_SHIPPED) and not Path(path).exists() else path


def _read(path: str) -> bytes:
    if "://" not in path:
        return Path(shipped(path)).read_bytes()
    from seqvis.storage import locate  # loads PyArrow, which most settings do not need

    return locate(path).read_bytes()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` in place of its own, level by level."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def suggestion(name: str, known: Sequence[str]) -> str:
    return did_you_mean(get_close_matches(name, known, n=1), ", ")


def explain(
    error: ValidationError,
    cls: type[BaseModel],
    flags: bool = True,
    with_values: bool | None = None,
) -> list[str]:
    """Return a line for each problem.

    Without `flags`, settings are named as in YAML and in Python, and their values, which may be
    secret, are not told unless `with_values` says so.
    """
    shown = flags if with_values is None else with_values
    return [_explain(detail, cls, flags, shown) for detail in error.errors()]


def _explain(detail: Any, cls: type[BaseModel], flags: bool, with_value: bool) -> str:
    path = [str(part) for part in detail["loc"]]
    names = (part for part in detail["loc"] if isinstance(part, str))
    flag = _flag(names) if flags else ".".join(path)
    given = detail.get("input")
    if detail["type"] == "extra_forbidden":
        known = list(_fields_at(cls, path[:-1]))
        return f"{'.'.join(path)}: no such key{suggestion(path[-1], known)}"
    if detail["type"] == "missing":
        return f"{flag}: is needed{_describe_field(cls, path) if flags else ''}"
    if detail["type"] == "model_type" and with_value:
        if not flags:
            return f"{flag}: is a group of settings; give a dict of them (given: {given!r})"
        first = _flag([*path, next(iter(_fields_at(cls, path)), "name")])
        return f"{flag}: is a group of settings; give them by their own flags, such as {first}"
    message = message_of(detail)
    shown = "" if isinstance(given, dict) or not with_value else f" (given: {given!r})"
    return f"{flag}: {message}{shown}" if path else message


def message_of(detail: Any) -> str:
    """Return the message of one of pydantic's errors, as it stands after a colon."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _flag(path: Iterable[str]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def field_at(cls: type[BaseModel], name: str) -> FieldInfo:
    """Return the field, or group of settings, with this dotted name or alias."""
    *groups, last = name.split(".")
    fields = _fields_at(cls, groups)
    aliases = {field.alias: field for field in fields.values()}
    return fields[last] if last in fields else aliases[last]


def _fields_at(cls: type[BaseModel], path: Sequence[str]) -> dict[str, FieldInfo]:
    model: Any = cls
    for part in path:
        field = model.model_fields.get(part)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return {}
    return model.model_fields


def _describe_field(cls: type[BaseModel], path: Sequence[str]) -> str:
    field = _fields_at(cls, path[:-1]).get(path[-1])
    return f": {field.description}" if field is not None and field.description else ""
