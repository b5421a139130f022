"""Conditions on an item's metadata, as trees. docs/search/collections.md says what they match.

The field `people.name` is the field `name` of the object `people`, or of each object in the list
`people`; a field whose own name is `people.name` counts as well.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from unicodedata import normalize


class Limit(NamedTuple):
    """An end of a range."""

    value: int | float | str
    included: bool


@dataclass(frozen=True)
class OneOf:
    """The field has one of the values, which are JSON; a list has each of its values, and itself.

    Numbers are equal however they are written (1 and 1.0), and so are texts whether accents are
    composed or not, but a number does not equal its text and true does not equal 1.
    """

    field: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Within:
    """The field has a number, or a text, between two limits of its own type; a list has each.

    Texts are compared by code points.
    """

    field: str
    low: Limit | None
    high: Limit | None


@dataclass(frozen=True)
class Exists:
    """The field is there, and is neither null nor an empty list."""

    field: str


@dataclass(frozen=True)
class AnyElement:
    """Some object in the list `field` agrees with the condition, whose fields are the object's."""

    field: str
    condition: "Condition"


@dataclass(frozen=True)
class Not:
    condition: "Condition"


@dataclass(frozen=True)
class And:
    conditions: tuple["Condition", ...]


@dataclass(frozen=True)
class Or:
    conditions: tuple["Condition", ...]


Leaf = OneOf | Within | Exists
Condition = Leaf | AnyElement | Not | And | Or


def leaves(condition: Condition, inside: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yield the conditions about one field, each with the list whose objects have that field."""
    match condition:
        case And(conditions) | Or(conditions):
            for inner in conditions:
                yield from leaves(inner, inside)
        case Not(inner):
            yield from leaves(inner, inside)
        case AnyElement(field, inner):
            yield from leaves(inner, field)
        case _:
            yield inside, condition


def full_name(inside: str, field: str) -> str:
    """Return how a field of the objects in a list is called from outside."""
    return f"{inside}.{field}" if inside else field


def fields_of(condition: Condition) -> list[str]:
    """Return the full names of the fields, each once."""
    return list(dict.fromkeys(full_name(inside, leaf.field) for inside, leaf in leaves(condition)))


def count_values(condition: Condition) -> int:
    """Return how many values a filter compares with; a range or `exists` counts as one."""
    values = (leaf.values if isinstance(leaf, OneOf) else () for _, leaf in leaves(condition))
    return sum(max(1, len(some)) for some in values)


def requires(condition: Condition, fields: Collection[str], inside: str = "") -> bool:
    """Tell whether nothing can agree that has none of the fields, given by their full names."""
    match condition:
        case And(conditions):
            return any(requires(inner, fields, inside) for inner in conditions)
        case Or(conditions):
            return all(requires(inner, fields, inside) for inner in conditions)
        case Not():
            return False
        case AnyElement(field, inner):
            return requires(inner, fields, field)
        case _:
            return full_name(inside, condition.field) in fields


_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False)


def canonical(value: Any) -> str:
    """Return one text for all ways to write the same value of JSON."""
    return normalize("NFC", _ENCODER.encode(_without_points(value)))


def _without_points(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_without_points(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_points(inner) for key, inner in value.items()}
    return value
