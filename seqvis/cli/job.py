"""What every job is made of: settings in, one JSON line out, and one clear message per error.

A job is a module with a `JobSettings` and a function `run(settings)` that returns its result.
`run_job` is its main: progress and logs go to standard error, and the result is the last line of
standard output. Exit codes: 0 done, 1 a failure that the message explains, 2 wrong flags or keys,
130 interrupted (Ctrl-C), 143 asked to stop (SIGTERM, as `ray job stop` sends).

`JobSettings` nests components' `Settings` into one tree. Flags are the tree's paths in kebab case
(`--model.hidden-size`, unit and default in `--help`); a YAML file given by `--config` has the same
tree. Flags override YAML, and YAML overrides defaults. An unknown flag or key is an error, never
ignored. Each argument is one value and is taken literally: nothing is split at commas or read as
JSON. A flag that takes several values is given once for each. pydantic-settings and argparse
declare the flags and write the help; the arguments are parsed here, because both would interpret
them.
"""

import argparse
import json
import logging
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, NoneType
from typing import Any, NoReturn, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from seqvis.config import Settings, explain, field_at, merge, read_yaml, suggestion
from seqvis.errors import ConfigError, SeqvisError, redacted

_INTERRUPTED = (130, 143)

P = TypeVar("P", bound=Settings)


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
        """Leave out the environment, where HOST or PORT may mean something else."""
        return (init_settings,)

    def part(self, settings_class: type[P]) -> P:
        """Return the settings of a component whose fields are among these."""
        return settings_class.model_validate(
            self.model_dump(include=set(settings_class.model_fields))
        )

    @classmethod
    def from_command_line(cls, arguments: Sequence[str], program: str | None = None) -> Self:
        """Return the settings that `arguments` (without the program's name) and `--config` give.

        `program`: the name of the program in its help, by default the module's that was started.
        Raises ConfigError with one line for every unknown, missing or invalid flag or key.
        Prints the help and raises SystemExit(0) on `--help`.
        """
        given, problems = _read_words(parser_for(cls, program), _checked_text(arguments))
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
            problems += explain(error, cls)
        if problems:
            raise ConfigError("\n".join(problems))
        return settings


class RayJobSettings(JobSettings):
    """Base of the settings of a job that uses Ray."""

    address: str | None = None
    """Ray to join, HOST:PORT, or auto for the one that was started on this machine, as by `make
    ray`. Default: that of RAY_ADDRESS, else one is started for this job."""

    @contextmanager
    def ray_session(self) -> Iterator[None]:
        """Start or join Ray for the block; Ray is imported only when it begins."""
        from seqvis.cluster import ray_session

        with ray_session(address=self.address):
            yield


S = TypeVar("S", bound=JobSettings)


class _Terminated(BaseException):
    """SIGTERM was received."""


def run_job(
    settings_class: type[S],
    run: Callable[[S], Mapping[str, Any] | None],
    arguments: Sequence[str] | None = None,
    program: str | None = None,
) -> int:
    """Run a job with the given flags (default: the process's own) and return its exit code.

    `program`: what its help calls it, by default the module that was started.

    A result of None prints nothing: the job has written its own output. Passwords in URIs are
    printed nowhere.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    previous = _raise_on_sigterm()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        settings = settings_class.from_command_line(given, program)
        result = run(settings)
        if result is not None:
            print(redacted(json.dumps(result, ensure_ascii=False)), flush=True)
        return 0
    except ConfigError as error:
        return _complain(error, 2)
    except SeqvisError as error:
        return _complain(error, 1)
    except (KeyboardInterrupt, _Terminated, SystemError) as error:
        # A signal that arrives while Ray's C code runs is the cause of a SystemError.
        signalled = error.__cause__ if isinstance(error, SystemError) else error
        earlier = "earlier results are intact, the same command goes on"
        if isinstance(signalled, KeyboardInterrupt):
            return _complain(f"interrupted; {earlier}", 130)
        if isinstance(signalled, _Terminated):
            return _complain(f"stopped; {earlier}", 143)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def leave(code: int) -> NoReturn:
    """End the process of a job with its exit code.

    One that was interrupted ends at once: Ray Train's thread may still be inside Ray, which crashes
    if it is taken down under it. Ray's own processes end with this one.
    """
    if code in _INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(message: object, code: int) -> int:
    for line in str(message).splitlines():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return code


def _raise_on_sigterm() -> Any:
    def handler(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread: the caller handles signals
        return None


_SEVERAL_FLAGS = "Give the flag once for each value."
_SEVERAL_ARGUMENTS = "Each argument is one value; put -- before those that begin with a dash."


def parser_for(cls: type[JobSettings], program: str | None = None) -> argparse.ArgumentParser:
    """Return pydantic-settings' parser for `cls`, with help for flags that repeat."""
    parser = argparse.ArgumentParser(prog=program or _module_name(), description=cls.__doc__)
    parser.add_argument(
        "--config", metavar="FILE", action="append", help="YAML file with settings; may repeat"
    )
    CliSettingsSource(cls, root_parser=parser)
    for action in parser._actions:
        if action.nargs in ("*", "+"):
            action.help = " ".join([str(action.help), _SEVERAL_ARGUMENTS])
        elif isinstance(action, argparse._AppendAction) and action.dest != "config":
            named = get_origin(field_at(cls, action.dest).annotation) is dict
            action.metavar = "NAME=VALUE" if named else "VALUE"
            action.help = " ".join([str(action.help), _SEVERAL_FLAGS])
        elif action.option_strings and action.option_strings[0] == f"-{action.dest}":
            # argparse's form of a single letter; --k is written like the other flags
            action.option_strings = [*action.option_strings, f"--{action.dest}"]
            parser._option_string_actions[f"--{action.dest}"] = action
    return parser


def _module_name() -> str:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(main, "name", None)
    return f"python -m {name}" if name and name.startswith(("jobs", "tune", "serve")) else "jobs"


def _checked_text(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments. Raises ConfigError if one is not UTF-8, which Python hides."""
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
    """Return the values given for each setting, and the problems.

    A value may begin with a dash, unless it is itself a flag of the job.
    """
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
            problems.append(f"{name}: no such flag{suggestion(name, list(flags))}; see --help")
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
    positional = next((known for known in parser._actions if not known.option_strings), None)
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
    """Return the value of the words after a flag, by its field's type; pydantic converts it."""
    annotation = field_at(cls, name).annotation
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
