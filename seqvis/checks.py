"""Checks of arguments that callers pass to the library."""

import importlib.util
import unicodedata
from typing import Any

from seqvis.errors import ConfigError


def check_several(values: Any, what: str) -> None:
    """Raise TypeError if one text or one file's bytes stand where several values belong.

    Python would go through its letters without a word.
    """
    if isinstance(values, str | bytes | bytearray):
        shown = repr(values[:40])
        raise TypeError(f"{what} must be a list, not one {type(values).__name__}: {shown}")


def has_control_characters(text: str) -> bool:
    """Tell whether a text has a line feed or another control character.

    Addresses and terminals do not carry these as they are.
    """
    return any(unicodedata.category(character) == "Cc" for character in text)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that would hold it
        return False


def require_extra(extra: str, *modules: str, instead: str = "") -> None:
    """Raise ConfigError if one of the extra's modules is not installed. Imports none of them.

    `instead`: what the message offers besides installing them.
    """
    missing = [name for name in modules if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not installed; pip install 'seqvis[{extra}]' brings what "
            f"this needs{instead}"
        )
