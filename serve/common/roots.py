"""The directories and prefixes from which the API may load models.

Nothing is opened or contacted. Links of local paths are followed before they are compared.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from seqvis.checks import has_control_characters
from serve.common.http import ApiError


@dataclass(frozen=True)
class Place:
    """A directory or prefix, in a normal form for comparisons."""

    store: str  # s3://bucket; empty for the local disk
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((self.store, *self.parts)) if self.store else str(Path(*self.parts))

    def holds(self, other: "Place") -> bool:
        """Tell whether `other` is this place or lies inside."""
        return self.store == other.store and other.parts[: len(self.parts)] == self.parts

    def above(self) -> "Place":
        """Return the directory around this place, unless that would be the whole disk."""
        least = 0 if self.store else 2
        return Place(self.store, self.parts[:-1]) if len(self.parts) > least else self


def place_of(path: str) -> Place:
    """Return what a path or URI names. Raises ValueError if a URI names more than a place."""
    if has_control_characters(path) or path != path.strip():
        raise ValueError("has control characters, or blanks at an end")
    if "://" not in path:
        return _local(os.path.expanduser(path))
    # A URI can name any host to contact, and the password to send to it
    # (`s3://user:password@bucket/x?endpoint_override=…`): one with more than a place is refused.
    if "?" in path or "#" in path:
        raise ValueError("has options (?) or a fragment (#)")
    parsed = urlsplit(path)
    if "@" in parsed.netloc:
        raise ValueError("has credentials (@)")
    name = unquote(parsed.path, errors="strict")
    if parsed.scheme == "file" and not parsed.netloc:
        return _local(name)
    if not parsed.scheme or not parsed.netloc:
        raise ValueError("has no scheme or no bucket")
    parts = tuple(name.strip("/").split("/")) if name.strip("/") else ()
    if {"", ".", ".."} & set(parts):
        raise ValueError("has an empty segment, or . or ..")
    return Place(f"{parsed.scheme}://{parsed.netloc}", parts)


def _local(path: str) -> Place:
    return Place("", Path(os.path.realpath(path)).parts)


class Roots:
    """The places from which models may be loaded."""

    def __init__(self, configured: Sequence[str] = ()):
        self._configured = tuple(place_of(root) for root in configured)

    def check(self, name: str, path: str, served: Iterable[str]) -> None:
        """Raise ApiError, which says what the operator can do, if `path` is not allowed.

        Args:
            name: of the version.
            served: what the operator made live; if no roots are configured, models may come from
                the directories around these.
        """
        try:
            place = place_of(path)
        except ValueError as error:
            raise ApiError(
                422,
                f"{name}: its path {error}; give a plain path or URI, and credentials and options "
                "of a store to the servers' environment",
            ) from None
        roots = self._configured or tuple(_around(served))
        if not any(root.holds(place) for root in roots):
            there = ", ".join(map(str, dict.fromkeys(roots))) or "none"
            raise ApiError(
                403,
                f"{name}: its path lies outside the places that models may come from ({there}); "
                "the operator sets them: model_roots of the gateway",
            )


def _around(served: Iterable[str]) -> Iterable[Place]:
    for path in served:
        scheme, mark, rest = path.partition("://")
        if mark:  # the operator's own may have credentials and options
            rest = rest.partition("#")[0].partition("?")[0]
            authority, slash, name = rest.partition("/")
            path = f"{scheme}://{authority.rpartition('@')[2]}{slash}{name}"
        yield place_of(path).above()
