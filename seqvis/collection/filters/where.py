"""Filters in every form in which a search takes them."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from seqvis.collection.filters.conditions import And, Condition, OneOf, canonical
from seqvis.collection.filters.grammar import parse
from seqvis.collection.items import json_value
from seqvis.errors import DataError

Predicate = Callable[[dict[str, Any]], bool]
Where = Condition | str | Mapping[str, Any] | Predicate
"""Conditions, their text (grammar.py), a value or a list of values for each field, or a function of
the metadata."""


def check_where(where: Where | None) -> Condition | Predicate | None:
    """Return a filter as conditions or as a function; None if it admits everything.

    Raises DataError if it is no filter, and FilterSyntaxError for a text that cannot be read.
    """
    if where is None or isinstance(where, Condition) or callable(where):
        return where
    if isinstance(where, str):
        return parse(where)
    if not isinstance(where, Mapping) or not all(isinstance(field, str) for field in where):
        raise DataError(
            f"{where!r}: is no filter; give a mapping of fields to values, or a text such as "
            f"'year >= 2020'"
        )
    conditions = tuple(OneOf(field, _values(field, wanted)) for field, wanted in where.items())
    return conditions[0] if len(conditions) == 1 else And(conditions) if conditions else None


def _values(field: str, wanted: Any) -> tuple[Any, ...]:
    """Return the values of which any will do, as JSON has them."""
    several = isinstance(wanted, list | tuple | set | frozenset)
    values = []
    for value in wanted if several else [wanted]:
        try:
            values.append(json_value(value))
            canonical(values[-1])
        except (TypeError, ValueError, RecursionError) as error:
            shown = reprlib.repr(value)
            raise DataError(f"the filter {field}={shown} cannot match: {error}") from error
    return tuple(values)
