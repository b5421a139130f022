"""Settings: strict, typed, from YAML and the command line, with all errors reported at once.

Each component declares its own `Settings` beside its code; a job nests them into one tree, a
`JobSettings`. Flags are the tree's paths in kebab case (`--model.hidden-size`, unit and default
in `--help`); a YAML file given by `--config` has the same tree. Flags win over YAML, YAML over
defaults. An unknown flag or key is an error, never ignored.
"""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    SettingsConfigDict,
)

from seqvis.errors import ConfigError


class Settings(BaseModel):
    """Base of a component's settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class JobSettings(BaseSettings):
    """Base of a job's settings: a tree of `Settings` that YAML and flags fill."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        nested_model_default_partial_update=True,
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Any, *_: Any, **__: Any
    ) -> tuple[Any, ...]:
        """Never the environment, where HOST or PORT may mean something else."""
        return (init_settings,)

    @classmethod
    def from_command_line(cls, arguments: Sequence[str]) -> Self:
        """The settings that `arguments` (without the program's name) and `--config` give.

        Raises ConfigError with one line for every unknown, missing or invalid flag or key.
        Prints the help and raises SystemExit(0) on `--help`.
        """
        arguments, presets = _take_config_flag(list(arguments))
        from_yaml: dict[str, Any] = {}
        for preset in presets:
            from_yaml = merge(from_yaml, read_yaml(preset))
        parser = _Parser(prog=_program_name(cls), allow_abbrev=False, description=_help_text(cls))
        parser.add_argument("--config", metavar="FILE", help="YAML file with settings; may repeat")
        unknown: list[str] = []

        def parse(self: argparse.ArgumentParser, args: Sequence[str]) -> argparse.Namespace:
            namespace, rest = argparse.ArgumentParser.parse_known_args(self, args)
            unknown.extend(rest)
            return namespace

        command_line: CliSettingsSource[Any] = CliSettingsSource(
            cls, root_parser=parser, parse_args_method=parse
        )
        command_line(args=list(arguments))
        problems = [_unknown_flag(flag, parser) for flag in unknown if flag.startswith("-")]
        problems += [
            f"{word}: is not preceded by a flag"
            for before, word in zip(["", *unknown], unknown, strict=False)
            if word[:1] != "-" and before[:1] != "-"  # else it is the value of an unknown flag
        ]
        defaults = InitSettingsSource(cls, init_kwargs=from_yaml)

        class Sources(cls):  # type: ignore[valid-type, misc]
            @classmethod
            def settings_customise_sources(cls, *_: Any, **__: Any) -> tuple[Any, ...]:
                return command_line, defaults

        Sources.__name__, Sources.__doc__ = cls.__name__, cls.__doc__
        try:
            merged = Sources()
        except ValidationError as error:
            problems += [_explain(detail, cls) for detail in error.errors()]
        if problems:
            raise ConfigError("\n".join(problems))
        values = {name: getattr(merged, name) for name in cls.model_fields}
        return cast(Self, cls.model_construct(**values))


def settings_from(cls: type[Settings], values: Any, where: str) -> Any:
    """Builds `cls` from stored values (a manifest). ConfigError names `where`."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        details = "; ".join(_explain(detail, cls) for detail in error.errors())
        raise ConfigError(f"{where}: {details}") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see --help")


def _program_name(cls: type[JobSettings]) -> str:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(main, "name", None)
    return f"python -m {name}" if name and name.startswith(("jobs", "tune", "serve")) else "jobs"


def _help_text(cls: type[JobSettings]) -> str:
    return (cls.__doc__ or "").strip()


def _take_config_flag(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separates `--config FILE` and `--config=FILE` from the other arguments."""
    rest: list[str] = []
    presets: list[str] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--config":
            if position + 1 == len(arguments):
                raise ConfigError("--config: needs the path of a YAML file")
            presets.append(arguments[position + 1])
            position += 1
        elif word.startswith("--config="):
            presets.append(word.removeprefix("--config="))
        else:
            rest.append(word)
        position += 1
    return rest, presets


def read_yaml(path: str) -> dict[str, Any]:
    """The keys and values of a YAML file, a path's or a URI's.

    Raises ConfigError if it has none or cannot be read, DataError or StorageError if an object
    store does not give it.
    """
    try:
        content = yaml.safe_load(_read(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; --config needs a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
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
    """`base` with what `over` gives in its place, level by level."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _unknown_flag(flag: str, parser: argparse.ArgumentParser) -> str:
    name = flag.split("=", 1)[0]
    known = [option for action in parser._actions for option in action.option_strings]
    return f"{name}: no such flag{_suggestion(name, known)}; see --help"


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def _explain(detail: Any, cls: type[BaseModel]) -> str:
    path = [str(part) for part in detail["loc"]]
    flag = "--" + ".".join(path).replace("_", "-")
    if detail["type"] == "extra_forbidden":
        known = _fields_at(cls, path[:-1])
        return f"{'.'.join(path)}: no such key{_suggestion(path[-1], known)}"
    if detail["type"] == "missing":
        return f"{flag}: is needed{_describe_field(cls, path)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    shown = "" if isinstance(given, dict) else f" (given: {given!r})"
    return f"{flag}: {message[:1].lower()}{message[1:]}{shown}" if path else message


def _fields_at(cls: type[BaseModel], path: Sequence[str]) -> list[str]:
    model: Any = cls
    for part in path:
        field = model.model_fields.get(part)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


def _describe_field(cls: type[BaseModel], path: Sequence[str]) -> str:
    model: Any = cls
    for part in path[:-1]:
        field = model.model_fields.get(part)
        if field is None or not hasattr(field.annotation, "model_fields"):
            return ""
        model = field.annotation
    field = model.model_fields.get(path[-1])
    return f": {field.description}" if field is not None and field.description else ""
