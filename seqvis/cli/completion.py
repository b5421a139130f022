"""Scripts by which a shell completes a command, its jobs, their flags and what may follow these."""

import argparse
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import shtab

from seqvis.cli.job import JobSettings, parser_for
from seqvis.config import field_at

SHELLS = tuple(shtab.SUPPORTED_SHELLS)


def completion_script(
    program: str, jobs: Iterable[tuple[str, str, type[JobSettings]]], shell: str
) -> str:
    """Return a script for one of SHELLS. `jobs`: name, description and settings of each."""
    parser = argparse.ArgumentParser(program)
    for flag in ("--version", "--print-completion"):
        parser.add_argument(flag, choices=SHELLS if "completion" in flag else None)
    commands = parser.add_subparsers()
    for name, description, settings_class in jobs:
        job = parser_for(settings_class, f"{program} {name}")
        for action in job._actions:
            _say_what_follows(action, settings_class)
        commands.add_parser(name, help=description, parents=[job], add_help=False)
    return str(shtab.complete(parser, shell))


def _say_what_follows(action: argparse.Action, settings_class: type[JobSettings]) -> None:
    """Name the choices of a flag or, where it takes any text, let files be completed."""
    if action.dest == "config":
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif action.dest != "help" and action.nargs != 0:
        types = list(_leaves(field_at(settings_class, action.dest).annotation))
        choices = [
            value for kind in types if get_origin(kind) is Literal for value in get_args(kind)
        ]
        if choices:
            action.choices = choices
        elif str in types:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types and Literals that one such as `tuple[str, ...] | None` is made of."""
    parts = () if get_origin(annotation) is Literal else get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _leaves(part)
