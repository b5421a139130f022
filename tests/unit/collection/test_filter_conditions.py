"""What filters match: the questions that users of vector databases ask, and a plain reference."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.filters import columns
from seqvis.collection.filters.columns import Columns
from seqvis.collection.filters.conditions import (
    And,
    AnyElement,
    Condition,
    Exists,
    Limit,
    Not,
    OneOf,
    Or,
    Within,
)
from seqvis.collection.filters.grammar import parse
from seqvis.collection.items import Item
from seqvis.errors import UnknownFieldError

ITEMS: dict[str, dict[str, Any]] = {
    "plain": {"year": 2020, "label": "dog", "open": True, "taken": "2024-01-02"},
    "float": {"year": 2020.5, "label": "Dog", "open": False, "taken": "2024-01-02T03:04:05"},
    "text": {"year": "2020", "label": "fire truck", "open": 1, "taken": "2024-02-01"},
    "null": {"year": None, "label": "caf\u00e9", "tags": []},
    "lists": {"year": [2005, 2025], "tags": ["red", "blue"], "label": "cafe\u0301"},
    "one": {"tags": ["red"], "id": 2**53 + 1},
    "large": {"tags": "red", "id": 2**53},
    "inner": {"license": {"name": "CC0", "year": 2020}, "tags": [None]},
    "dotted": {"license.name": "CC0"},
    "people": {"people": [{"name": "Ann", "age": 20}, {"name": "Bob", "age": 40}]},
    "couple": {"people": [{"name": "Ann", "age": 40}, "unknown"], "odd name": {"in": 1}},
    "alone": {"people": {"name": "Ann", "age": 31}, "licens": {".name": "CC0"}},
    "nothing": {},
}


def all_but(*names: str) -> str:
    return " ".join(name for name in ITEMS if name not in names)


QUESTIONS: list[tuple[str, str]] = [
    # Does `not` match what has no such field?
    ("not year = 2020", all_but("plain")),
    ("year != 2020", all_but("plain")),
    ("year exists and year != 2020", "float text lists"),
    ("label not in [dog, Dog]", all_but("plain", "float")),
    # Missing, null and empty.
    ("tags missing", "plain float text null dotted people couple alone nothing"),
    ("tags exists", "lists one large inner"),
    ("tags = []", "null"),
    ("year = null", "null"),
    ("year missing and not year = null", "one large inner dotted people couple alone nothing"),
    ("tags = null", "inner"),
    # Ranges.
    ("year > 2020", "float lists"),
    ("year >= 2020", "plain float lists"),
    ("year between 2020 and 2020.5", "plain float"),
    ("2010 <= year < 2020.5", "plain"),
    ("year >= 2010 and year < 2020", "lists"),  # by different values of the list
    ("year <= 2004 or year > 2025", ""),
    ("not year < 2010", all_but("lists")),
    # Numbers, texts and truth values.
    ('year = "2020"', "text"),
    ('year >= "2"', "text"),
    ("open = true", "plain"),
    ("open = 1", "text"),
    ("open >= 0", "text"),
    ("id = 9007199254740993", "one"),
    ("id > 9007199254740992", "one"),
    ("id <= 9007199254740992", "large"),
    ("id >= 9007199254740993", "one"),
    ("id < 9007199254740993", "large"),
    # Dates are texts.
    ('taken >= "2024-01-02" and taken < "2024-01-03"', "plain float"),
    ('taken <= "2024-01-02"', "plain"),
    ('taken between "2024-01" and "2024-02-01"', "plain float text"),
    # Texts: whole, with their capitals, however accents are written.
    ("label = dog", "plain"),
    ('label = "caf\u00e9"', "null lists"),
    ('"cafe\u0301" <= label <= "caf\u00e9"', "null lists"),
    ('label = "fire truck"', "text"),
    # Lists.
    ("tags = red", "lists one large"),
    ("tags any [red, blue]", "lists one large"),
    ("tags in [blue]", "lists"),
    ("tags all [red, blue]", "lists"),
    ("tags = [red]", "one"),
    ("not tags any [blue] and tags exists", "one large inner"),
    # Fields of objects, and of objects in lists.
    ("license.name = CC0", "inner dotted"),
    ("license.year >= 2020", "inner"),
    ("license exists", "inner"),
    ("people.name = Ann and people.age > 30", "people couple alone"),
    ("people any (name = Ann and age > 30)", "couple alone"),
    ("people any (not name = Ann)", "people"),
    ("not people any (name = Ann)", all_but("people", "couple", "alone")),
    ("people.age between 21 and 39", "alone"),
    ("`odd name`.`in` = 1", "couple"),
    ("`odd name.in` = 1", "couple"),
]


@pytest.mark.parametrize(("text", "names"), QUESTIONS)
def test_a_filter_answers_what_users_of_vector_databases_ask(
    text: str, names: str, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        halves = list(ITEMS.items())
        collection.add([Item(name, np.ones(1), data) for name, data in halves[::2]])
        collection.compact()  # one half in a segment, one in the tail
        collection.add([Item(name, np.ones(1), data) for name, data in halves[1::2]])
        for where in (text, parse(text)):
            matches = collection.search(np.ones(1), 99, where)
            assert {match.id for match in matches} == set(names.split())


@pytest.mark.parametrize(
    ("where", "missing", "suggestion"),
    [
        ("yaer >= 2020", "yaer", "year"),
        ("yaer missing", "yaer", "year"),
        ("year >= 2020 or not (yaer exists)", "yaer", "year"),
        ("license.nmae = CC0", "license.nmae", "license.name"),
        ("people any (aeg > 3)", "people.aeg", "people.age"),
        ("poeple any (age > 3)", "poeple.age", "people.age"),
        ({"license.nmae": "CC0"}, "license.nmae", "license.name"),
    ],
)
def test_a_misspelt_field_is_named_whatever_asks_for_it(
    where: Any, missing: str, suggestion: str, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        assert collection.search(np.ones(1), 99, where) == []
        collection.add([Item(name, np.ones(1), data) for name, data in ITEMS.items()])
        for _ in range(2):
            with pytest.raises(UnknownFieldError) as caught:
                collection.search(np.ones(1), 99, where)
            assert caught.value.missing == (missing,)
            assert suggestion in caught.value.suggestions


def test_a_field_of_deleted_items_alone_is_unknown(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        data: list[dict[str, Any]] = [{"old": 1, "deep": {"old": 1}}, {"old": 2, "new": 1}, {}]
        collection.add([Item(f"{n}", np.ones(1), some) for n, some in enumerate(data)])

        def ids(where: str) -> list[str]:
            return [match.id for match in collection.search(np.ones(1), 99, where)]

        assert ids("old > 1") == ["1"]
        assert ids("not deep.old = 1") == ["1", "2"]
        collection.delete(["0"])
        assert ids("old = 1") == []
        assert ids("not old = 1") == ["1", "2"]
        with pytest.raises(UnknownFieldError, match="they have deep, new, old"):
            ids("not deep.old = 1")
        collection.delete(["1"])
        with pytest.raises(UnknownFieldError, match="'old'"):
            ids("old exists")
        collection.add([Item("3", np.ones(1), {"old": 3})])
        assert ids("old exists") == ["3"]


def test_objects_of_a_list_are_told_apart_where_one_of_their_fields_comes_late() -> None:
    people: list[dict[str, Any]] = [{"people": [{"a": n}] * (n % 3)} for n in range(20)]
    people += [{"people": [{"a": n, "late": 1}, {"late": 2}]} for n in range(20, 40)]
    stored = Columns(people.__getitem__)
    assert np.flatnonzero(stored.mask("people any (a = 7)", 20)).tolist() == [7]
    late = stored.mask("people any (a > 30 and late = 1)", 40)
    assert np.flatnonzero(late).tolist() == list(range(31, 40))
    assert not stored.mask("people any (a > 30 and late = 2)", 40).any()


def reference(condition: Condition, metadata: dict[str, Any]) -> bool:
    """The same in plain Python, an item at a time."""
    match condition:
        case And(conditions):
            return all(reference(inner, metadata) for inner in conditions)
        case Or(conditions):
            return any(reference(inner, metadata) for inner in conditions)
        case Not(inner):
            return not reference(inner, metadata)
        case AnyElement(field, inner):
            return any(
                reference(inner, element)
                for value in values_of(metadata, field)
                for element in (value if isinstance(value, list) else [value])
                if isinstance(element, dict)
            )
    values = values_of(metadata, condition.field)
    singles = [one for value in values for one in (value if isinstance(value, list) else [value])]
    match condition:
        case OneOf(_, wanted):
            return any(same(value, other) for value in [*values, *singles] for other in wanted)
        case Exists():
            return any(value not in (None, []) for value in values)
        case Within(_, low, high):
            return any(fits(value, low, 1) and fits(value, high, -1) for value in singles)
    raise AssertionError(condition)


def values_of(metadata: Any, field: str) -> list[Any]:
    """The values at all ways to cut the field's name at its dots."""
    if isinstance(metadata, list):
        return [
            value for some in metadata if isinstance(some, dict) for value in values_of(some, field)
        ]
    if not isinstance(metadata, dict):
        return []
    values = [metadata[field]] if field in metadata else []
    for place, sign in enumerate(field):
        if sign == "." and field[:place] in metadata:
            values += values_of(metadata[field[:place]], field[place + 1 :])
    return values


def same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, str) and isinstance(other, str):
        return normalize("NFC", one) == normalize("NFC", other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def fits(value: Any, limit: Limit | None, sign: int) -> bool:
    """Whether a value is above a low limit (`sign` 1) or below a high one (-1)."""
    if limit is None:
        return True
    if isinstance(value, bool) or isinstance(value, str) != isinstance(limit.value, str):
        return False
    if isinstance(value, str):
        one, other = (normalize("NFC", some).encode() for some in (value, str(limit.value)))
        return (one == other and limit.included) or (one > other if sign > 0 else one < other)
    if not isinstance(value, int | float):
        return False
    return (value == limit.value and limit.included) or (
        value > limit.value if sign > 0 else value < limit.value
    )


def test_random_filters_of_random_metadata_match_as_in_plain_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    numbers: st.SearchStrategy[Any] = st.one_of(
        st.sampled_from(
            [0, -0.0, 1, 1.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**70), 1e22]
        ),
        st.integers(-3, 3),
        st.floats(-3, 3),
        st.integers(-(2**90), 2**90),
    )
    texts = st.sampled_from(["", "a", "a\0", "b", "é", "e\u0301", "f", "\uffff", "\U0001f600", "1"])
    texts |= st.sampled_from(["2024-01-02", "2024-01-02T03:04:05.678", "2024-01-03"])
    names = st.sampled_from(["a", "b", "c", "a.b"])
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), numbers, texts),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    )
    fields = st.sampled_from(["a", "b", "c", "d", "a.b", "a.c", "b.a", "a.b.c", "b.a.b.c"])

    def ranges(limit: st.SearchStrategy[Any]) -> st.SearchStrategy[Condition]:
        ends = st.builds(Limit, limit, st.booleans())
        return st.builds(Within, fields, ends, ends | st.none()) | st.builds(
            Within, fields, st.none(), ends
        )

    leaf: st.SearchStrategy[Condition] = st.one_of(
        st.builds(OneOf, fields, st.lists(values, max_size=3).map(tuple)),
        st.builds(Exists, fields),
        ranges(numbers),
        ranges(texts),
    )

    def joined(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        several = st.lists(inner, min_size=1, max_size=3).map(tuple)
        return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)

    elements = st.builds(AnyElement, fields, st.recursive(leaf, joined, max_leaves=3))
    conditions = st.recursive(leaf | elements, joined, max_leaves=5)
    rows = st.lists(st.dictionaries(names | st.just("d"), values, max_size=4), max_size=12)

    @settings(max_examples=100, derandomize=True, database=None, deadline=None)
    @given(rows, st.lists(conditions, min_size=1, max_size=3), st.integers(0, 12))
    def check(metadata: list[dict[str, Any]], wheres: list[Condition], first: int) -> None:
        stored = Columns(metadata.__getitem__)
        for count in (min(first, len(metadata)), len(metadata)):  # what was read is added to
            for where in wheres:
                expected = [reference(where, some) for some in metadata[:count]]
                assert stored.mask(where, count).tolist() == expected

    check()
    monkeypatch.setattr(columns, "_LEAST_KEPT", 40)  # columns are dropped, and read again
    monkeypatch.setattr(columns, "_KEPT_PER_ROW", 0)
    check()
