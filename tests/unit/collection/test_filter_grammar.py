"""The text form of filters: what it reads, and how it says what it cannot read."""

import pickle
from typing import Any

import pytest

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
from seqvis.collection.filters.grammar import DEPTH, parse
from seqvis.errors import FilterSyntaxError

A, B, C = OneOf("a", (1,)), OneOf("b", (2,)), OneOf("c", (3,))


def between(low: Any, high: Any, with_low: bool = True, with_high: bool = True) -> Within:
    return Within("year", Limit(low, with_low), Limit(high, with_high))


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("a = 1", A),
        ("a==1", A),
        ("a != 1", Not(A)),
        ("a = 1 and b = 2 or c = 3", Or((And((A, B)), C))),
        ("a = 1 and (b = 2 or c = 3)", And((A, Or((B, C))))),
        ("not a = 1 and b = 2", And((Not(A), B))),
        ("NOT (a=1 OR b=2)", Not(Or((A, B)))),
        ("not not a = 1", Not(Not(A))),
        ("year >= 2020", Within("year", Limit(2020, True), None)),
        ("year<-.5e1", Within("year", None, Limit(-5.0, False))),
        ("2010 <= year < 2020", between(2010, 2020, with_high=False)),
        ("2020 >= year > 2010", between(2010, 2020, with_low=False)),
        ("2010 < year", Within("year", Limit(2010, False), None)),
        ("year between 2010 and 2020 and a = 1", And((between(2010, 2020), A))),
        ('year between "2010" and "2020"', between("2010", "2020")),
        ("a in [x, 'y z', 3, true, null, [1]]", OneOf("a", ("x", "y z", 3, True, None, [1]))),
        ("label not in [dog]", Not(OneOf("label", ("dog",)))),
        ("label in []", OneOf("label", ())),
        ("tags any [a, b]", OneOf("tags", ("a", "b"))),
        ("tags all [a, b]", And((OneOf("tags", ("a",)), OneOf("tags", ("b",))))),
        ("tags = [a, b]", OneOf("tags", (["a", "b"],))),
        ("year exists", Exists("year")),
        ("year MISSING", Not(Exists("year"))),
        ("license.name = CC0", OneOf("license.name", ("CC0",))),
        ("people any (a = 1 and b = 2)", AnyElement("people", And((A, B)))),
        ("rdfs:subClassOf = @id/x-1", OneOf("rdfs:subClassOf", ("@id/x-1",))),
        ("`fire truck` exists or `not` exists", Or((Exists("fire truck"), Exists("not")))),
        ("`a``b` = ab", OneOf("a`b", ("ab",))),
        ("`my license`.name.`short (2)` = CC0", OneOf("my license.name.short (2)", ("CC0",))),
        (r"""a = "\"'\n\u00e9\ud83d\ude00\\" """, OneOf("a", ("\"'\né\U0001f600\\",))),
        (r"""a = '"\'\\\u00e9'""", OneOf("a", ("\"'\\é",))),
        ("größe = 1 and नाम = 2", And((OneOf("größe", (1,)), OneOf("नाम", (2,))))),
        ("a = 9007199254740993", OneOf("a", (2**53 + 1,))),
        ("\n a\t=\n1\n", A),
    ],
)
def test_a_text_is_read_as_conditions(text: str, condition: Condition) -> None:
    read = parse(text)
    assert read == condition
    assert pickle.loads(pickle.dumps(read)) == condition


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "a field"),
        ("year", 4, "=, !=, <"),
        ("year >=", 7, "a number, or a text or date in quotes"),
        ("year >> 3", 6, "a number"),
        ("year => 3", 6, "a value"),
        ("year is null", 5, "exists or missing"),
        ("year > null", 7, "a number"),
        ("year >= 202O", 8, "a number"),
        ("taken >= 2024-01-02", 9, "a text or date needs quotes"),
        ("zip = 01234", 6, "a number"),
        ("a = 1e999", 4, "a number"),
        ("a = " + "9" * 5000, 4, "a number"),
        ("label = golden retriever", 15, "several words needs quotes"),
        ("a = 1 && b = 2", 6, "`and`, `or` or the end"),
        ("(a = 1", 6, "`and`, `or` or )"),
        ("a = 1)", 5, "the end"),
        ("label in dog", 9, "a list"),
        ("label in [dog", 13, "`,` or `]`"),
        ("label in [dog,]", 14, "a value"),
        ("label not dog", 10, "`in` with a list"),
        ("tags all []", 10, "a value"),
        ("a = and", 4, "a value"),
        ("any = 1", 0, "a field"),
        ("exists a", 0, "a field"),
        ('a = "b', 4, 'a closing "'),
        ("`a = 1", 0, "a closing `"),
        ("a.`b = 1", 2, "a closing `"),
        ('a = 1 and "b', 10, 'a closing "'),
        (r'a = "\x"', 4, "escapes of JSON"),
        (r'a = "\ud800"', 4, "escapes of JSON"),
        ("a = {", 4, "a value"),
        ("a ! 1", 2, "=, !="),
        ("year between 1 2", 15, "`and` with the other limit"),
        ('year between 1 and "2"', 19, "a number, like the other limit"),
        ('"2" < year < 3', 13, "a text, like the other limit"),
        ("1 < year > 2", 9, "the end"),
        ("1 = year", 2, "<, <=, > or >="),
        ("people any (cars any (a = 1))", 21, "does not go inside another"),
        ("(" * (DEPTH + 1) + "a = 1" + ")" * (DEPTH + 1), DEPTH + 1, f"at most {DEPTH} levels"),
        ("not " * (DEPTH + 1) + "a = 1", 4 * (DEPTH + 1), f"at most {DEPTH} levels"),
        ("a = " + "[" * (DEPTH + 1), 4 + DEPTH, f"at most {DEPTH} levels"),
    ],
)
def test_a_text_that_cannot_be_read_says_where_and_what_was_expected(
    text: str, position: int, expected: str
) -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.text, error.position) == (text, position)
        assert expected in error.expected
        assert f"column {position + 1}: expected {error.expected}" in str(error)
        assert len(str(error)) < 300


def test_the_deepest_filter_is_no_error() -> None:
    assert parse("(" * DEPTH + "a = 1" + ")" * DEPTH) == A
    assert parse(" or ".join(["a = 1"] * 5000)) == Or((A,) * 5000)


def test_whatever_the_text_it_is_read_or_refused_with_its_own_error() -> None:
    from hypothesis import example, given, settings
    from hypothesis import strategies as st

    words = "a b.c and or not in any all between exists missing true null 1 -2.5 1e9 007 𝟙 ² é"
    signs = "= == != < <= > >= ( ) [ ] , \" ' ` \\ ! { } \"x\" 'y' `z` \\u00e9 \u0301 \0 \ud800"
    pieces = st.sampled_from([*words.split(), *signs.split()])
    spaced = st.lists(pieces, max_size=30).flatmap(
        lambda some: st.sampled_from([" ", "", "\n"]).map(lambda space: space.join(some))
    )

    @settings(max_examples=500, derandomize=True, database=None, deadline=None)
    @given(st.text() | spaced)
    @example("a in [" * 3000)
    @example("not" * 3000)
    @example("(" * 100_000)
    @example('"' + "\\" * 99_999)
    def check(text: str) -> None:
        try:
            read = parse(text)
        except FilterSyntaxError as error:
            place = error.position
        else:
            place = len(text) if isinstance(read, Condition) else -1
        assert 0 <= place <= len(text)

    check()
