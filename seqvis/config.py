"""Settings: strict, typed, read from YAML and from stored values, with all errors at once.

Each component declares its own `Settings` next to its code; a job nests them into one tree
(`seqvis.cli.job`).
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from seqvis import encodings
from seqvis.errors import ConfigError, DataError


class Settings(BaseModel):
    """Base of a component's settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def settings_from(cls: type[Settings], values: Any, where: str) -> Any:
    """Build `cls` from stored values (a manifest). ConfigError names `where`."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        details = "; ".join(explain(detail, cls) for detail in error.errors())
        raise ConfigError(f"{where}: {details}") from error


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
    try:
        content = yaml.safe_load(encodings.decode(raw, path))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs keys and values at its top level")
    return content


def _read(path: str) -> bytes:
    if "://" not in path:
        return Path(path).read_bytes()
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
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def explain(detail: Any, cls: type[BaseModel]) -> str:
    path = [str(part) for part in detail["loc"]]
    flag = _flag(part for part in detail["loc"] if isinstance(part, str))
    if detail["type"] == "extra_forbidden":
        known = list(_fields_at(cls, path[:-1]))
        return f"{'.'.join(path)}: no such key{suggestion(path[-1], known)}"
    if detail["type"] == "missing":
        return f"{flag}: is needed{_describe_field(cls, path)}"
    if detail["type"] == "model_type":
        first = _flag([*path, next(iter(_fields_at(cls, path)), "name")])
        return f"{flag}: is a group of settings; give them by their own flags, such as {first}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    shown = "" if isinstance(given, dict) else f" (given: {given!r})"
    return f"{flag}: {message[:1].lower()}{message[1:]}{shown}" if path else message


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
