"""Settings: strict, typed, from YAML and the command line, with all errors reported at once.

Each component declares its own `Settings` next to its code; a job nests them into one tree, a
`JobSettings`. Flags are the tree's paths in kebab case (`--model.hidden-size`, unit and default in
`--help`); a YAML file given by `--config` has the same tree. Flags override YAML, and YAML
overrides defaults. An unknown flag or key is an error, never ignored.

Each argument is one value and is taken literally: nothing is split at commas or read as JSON. A
flag that takes several values is given once for each. pydantic-settings and argparse declare the
flags and write the help; the arguments are parsed here, because both would interpret them.
"""

import argparse
import difflib
import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from seqvis import encodings
from seqvis.errors import ConfigError, DataError


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
        given, problems = _read_words(_parser_for(cls), _checked_text(arguments))
        values: dict[str, Any] = {}
        for preset in given.pop("config", []):
            values = merge(values, read_yaml(preset))
        for name, words in given.items():
            value = _value_of(cls, name, words, problems)
            for part in reversed(name.split(".")):
                value = {part: value}
            values = merge(values, value)
        # BaseSettings would take such keys as its own parameters.
        reserved = [key for key in values if not isinstance(key, str) or key.startswith("_")]
        problems += [f"{key}: no such key" for key in reserved]
        try:
            settings = cls(**{key: values[key] for key in values if key not in reserved})
        except ValidationError as error:
            problems += [_explain(detail, cls) for detail in error.errors()]
        if problems:
            raise ConfigError("\n".join(problems))
        return settings


def settings_from(cls: type[Settings], values: Any, where: str) -> Any:
    """Builds `cls` from stored values (a manifest). ConfigError names `where`."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        details = "; ".join(_explain(detail, cls) for detail in error.errors())
        raise ConfigError(f"{where}: {details}") from error


_SEVERAL_FLAGS = "Give the flag once for each value."
_SEVERAL_ARGUMENTS = "Each argument is one value; put -- before those that begin with a dash."


def _parser_for(cls: type[JobSettings]) -> argparse.ArgumentParser:
    """The flags of `cls` as pydantic-settings makes them, with help for those that repeat."""
    parser = argparse.ArgumentParser(prog=_program_name(cls), description=_help_text(cls))
    parser.add_argument(
        "--config", metavar="FILE", action="append", help="YAML file with settings; may repeat"
    )
    CliSettingsSource(cls, root_parser=parser)
    for action in parser._actions:
        if action.nargs in ("*", "+"):
            action.help = " ".join([str(action.help), _SEVERAL_ARGUMENTS])
        elif isinstance(action, argparse._AppendAction) and action.dest != "config":
            named = get_origin(_field_at(cls, action.dest).annotation) is dict
            action.metavar = "NAME=VALUE" if named else "VALUE"
            action.help = " ".join([str(action.help), _SEVERAL_FLAGS])
        elif action.option_strings and action.option_strings[0] == f"-{action.dest}":
            # argparse's form of a single letter; --k is written like the other flags
            action.option_strings = [*action.option_strings, f"--{action.dest}"]
            parser._option_string_actions[f"--{action.dest}"] = action
    return parser


def _program_name(cls: type[JobSettings]) -> str:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(main, "name", None)
    return f"python -m {name}" if name and name.startswith(("jobs", "tune", "serve")) else "jobs"


def _help_text(cls: type[JobSettings]) -> str:
    return (cls.__doc__ or "").strip()


def _checked_text(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments. Raises ConfigError if one was not UTF-8: Python makes surrogates of that."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            shown = word.encode("utf-8", "backslashreplace").decode().replace("\\udc", "\\x")
            raise ConfigError(
                f"{shown}: is not UTF-8; write arguments in UTF-8, and rename a file whose name "
                f"is in another encoding"
            ) from error
    return arguments


# A word that begins like a flag; "-", "-5" and "- Non, dit-il" are values.
_FLAG = re.compile(r"--?[^\W\d_]\S*")


def _read_words(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[dict[str, list[Any]], list[str]]:
    """What was given for each setting, and the problems. A value may begin with a dash, unless it
    is itself a flag of the job."""
    flags = parser._option_string_actions
    given: dict[str, list[Any]] = {}
    loose: list[str] = []
    problems: list[str] = []
    words = deque(arguments)
    while words:
        word = words.popleft()
        name, equals, value = word.partition("=")
        action = flags.get(name)
        if word == "--":
            loose += words
            break
        if action is None:
            if not _FLAG.fullmatch(word):
                loose.append(word)
                continue
            problems.append(f"{name}: no such flag{_suggestion(name, list(flags))}; see --help")
            if not equals and words and not _FLAG.fullmatch(words[0]):
                words.popleft()  # the value of the unknown flag
        elif action.dest == "help":
            parser.print_help()
            parser.exit()
        elif action.nargs == 0:
            if equals:
                problems.append(f"{word}: this flag takes no value; write {name} alone")
            given[action.dest] = [not name.startswith("--no-")]
        elif equals:
            given.setdefault(action.dest, []).append(value)
        elif words and words[0] != "--" and words[0].partition("=")[0] not in flags:
            given.setdefault(action.dest, []).append(words.popleft())
        else:
            problems.append(_missing_value(name, words))
    positional = next((one for one in parser._actions if not one.option_strings), None)
    if positional is not None and loose:
        given[positional.dest] = loose
    else:
        problems += [f"{word}: is not preceded by a flag; see --help" for word in loose]
    return given, problems


def _missing_value(name: str, following: Sequence[str]) -> str:
    if name == "--config":
        return f"{name}: needs the path of a YAML file"
    if not following:
        return f"{name}: needs a value"
    word = following[0]
    return f"{name}: needs a value; write {name}={word} if {word} is the value"


def _value_of(cls: type[BaseModel], name: str, words: Sequence[Any], problems: list[str]) -> Any:
    """What the words after a flag stand for, by the type of its field; pydantic converts them."""
    annotation = _field_at(cls, name).annotation
    kind = get_origin(annotation)
    if kind in (tuple, list):
        return list(words)
    if kind is dict:
        named: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not key or not equals:
                problems.append(f"--{name} {word}: needs the form NAME=VALUE")
            named.setdefault(key, []).append(value)
        return named
    last = words[-1]
    types = get_args(annotation)
    return None if last == "None" and NoneType in types and str not in types else last


def read_yaml(path: str) -> dict[str, Any]:
    """The keys and values of a YAML file, a path's or a URI's.

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
    """`base` with what `over` gives in its place, level by level."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def _explain(detail: Any, cls: type[BaseModel]) -> str:
    path = [str(part) for part in detail["loc"]]
    flag = _flag(part for part in detail["loc"] if isinstance(part, str))
    if detail["type"] == "extra_forbidden":
        known = list(_fields_at(cls, path[:-1]))
        return f"{'.'.join(path)}: no such key{_suggestion(path[-1], known)}"
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


def _field_at(cls: type[BaseModel], name: str) -> FieldInfo:
    """The field of a dotted name, which a group of settings, or the alias of a field, may be."""
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
