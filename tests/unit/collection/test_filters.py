"""Filters: what they match, what they cost, and what is kept of their columns."""

import pickle
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.filters import columns
from seqvis.collection.filters.columns import Columns
from seqvis.collection.items import Item
from seqvis.deadline import Deadline
from seqvis.errors import SearchTimeoutError, UnknownFieldError


class Rows:
    """Metadata that notes which rows were parsed, and calls `before` at each."""

    def __init__(self, metadata: Callable[[int], dict[str, Any]]):
        self._metadata = metadata
        self.parsed: list[int] = []
        self.before: Callable[[int], None] = lambda row: None
        self.columns = Columns(self)

    def __call__(self, row: int) -> dict[str, Any]:
        self.before(row)
        self.parsed.append(row)
        return self._metadata(row)


def kept(rows: Rows) -> int:
    """Bytes of all that is kept."""
    return sum(column.size for column in rows.columns._columns.values())


def test_a_filter_of_many_fields_parses_each_row_once() -> None:
    rows = Rows(lambda row: {f"f{number}": row % (number + 2) for number in range(16)})
    where = {f"f{number}": 1 for number in range(16)}
    expected = [all(row % (number + 2) == 1 for number in range(16)) for row in range(3000)]
    assert rows.columns.mask(where, 3000).tolist() == expected
    assert rows.parsed == list(range(3000))
    mask = rows.columns.mask({"f0": 0, "f15": 3}, 3000)
    assert np.flatnonzero(mask).tolist() == list(range(20, 3000, 34))
    assert len(rows.parsed) == 3000


def test_fields_that_do_not_exist_are_neither_kept_nor_looked_for_again() -> None:
    rows = Rows(lambda row: {"a": row})
    for number in range(50):
        assert not rows.columns.mask({f"guess {number}": 1, "a": 3}, 10).any()
        assert rows.columns.lacks(f"guess {number}", 10)
    assert rows.parsed == list(range(10))
    assert rows.columns.names() == {"a"}
    assert rows.columns.mask({"a": 11}, 12).tolist() == [False] * 11 + [True]
    assert rows.parsed == list(range(12))
    assert not rows.columns.lacks("guess 0", 13)  # nobody has looked at the thirteenth


def test_a_field_that_comes_late_is_found_in_all_rows_that_have_it() -> None:
    rows = Rows(lambda row: {"a": row} | ({"late": row % 2} if row >= 100 else {}))
    assert not rows.columns.mask({"late": 1}, 100).any()
    assert np.flatnonzero(rows.columns.mask({"late": 1}, 200)).tolist() == list(range(101, 200, 2))
    assert rows.parsed == list(range(200))


def test_what_is_kept_is_bounded_and_the_fields_used_last_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "_LEAST_KEPT", 0)
    count = 500
    rows = Rows(lambda row: {f"f{number}": f"{row}" for number in range(40)})
    rows.columns.mask({f"f{number}": "7" for number in range(5)}, count)
    for number in range(5, 40):
        assert np.flatnonzero(rows.columns.mask({f"f{number}": "7"}, count)).tolist() == [7]
        rows.columns.mask({"f0": "7"}, count)
        assert kept(rows) <= 256 * count
    parsed = len(rows.parsed)
    assert parsed == 36 * count
    rows.columns.mask({"f0": "9", "f39": "9", "f38": "9"}, count)
    assert len(rows.parsed) == parsed
    assert rows.columns.mask({"f1": "9"}, count).sum() == 1  # dropped, and read again
    assert len(rows.parsed) == parsed + count


def test_a_field_too_large_to_be_kept_is_filtered_by_all_the_same() -> None:
    rows = Rows(lambda row: {"tags": list(range(row, row + 300)), "a": row})
    rows.columns.mask({"a": 1}, 400)
    mask = rows.columns.mask({"tags": [500]}, 400)
    assert np.flatnonzero(mask).tolist() == list(range(201, 400))
    assert kept(rows) <= 1 << 20
    rows.columns.mask({"a": 2}, 400)
    assert len(rows.parsed) == 800


def test_a_filter_that_runs_out_of_time_goes_on_where_it_was_ended() -> None:
    rows = Rows(lambda row: {"a": row} | ({"late": 1} if row > 4000 else {}))
    deadline = Deadline()
    rows.before = lambda row: deadline.end() if row == 1000 else None
    with pytest.raises(SearchTimeoutError):
        rows.columns.mask({"a": 4500, "late": 1}, 5000, deadline)
    assert 1000 < len(rows.parsed) < 1300
    assert rows.columns.unread({"a": 1}, 5000) == 5000 - len(rows.parsed)
    rows.before = lambda row: None
    mask = rows.columns.mask({"a": 4500, "late": 1}, 5000)
    assert np.flatnonzero(mask).tolist() == [4500]
    assert sorted(rows.parsed) == list(range(5000))
    assert rows.columns.unread({"a": 1, "late": 2, "nowhere": 3}, 5000) == 0


def test_filters_that_are_there_already_do_not_wait_for_one_that_reads() -> None:
    rows = Rows(lambda row: {"a": row, "b": row})
    rows.columns.mask({"a": 1}, 1000)
    reading, go_on = threading.Event(), threading.Event()

    def stop(row: int) -> None:
        reading.set()
        go_on.wait(10)

    rows.before = stop
    slow = threading.Thread(target=lambda: rows.columns.mask({"b": 1}, 1000))
    slow.start()
    try:
        assert reading.wait(10)
        assert rows.columns.mask({"a": 3}, 1000).sum() == 1
        with pytest.raises(SearchTimeoutError):  # it waits for its turn
            rows.columns.mask({"b": 2}, 1000, Deadline(0.05))
    finally:
        go_on.set()
        slow.join()


def test_filters_from_many_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_KEPT_PER_ROW", 0)
    monkeypatch.setattr(columns, "_LEAST_KEPT", 25_000)
    rows = Rows(lambda row: {f"f{number}": row % (number + 2) for number in range(12)})
    wrong = []

    def ask(first: int) -> None:
        for turn in range(30):
            number = 1 + (first + turn) % 11
            mask = rows.columns.mask({f"f{number}": 1, "f0": [0, 1]}, 500 + turn)
            expected = [row % (number + 2) == 1 for row in range(500 + turn)]
            if mask.tolist() != expected:
                wrong.append((number, turn))

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert kept(rows) <= 25_000


def test_a_search_by_an_unknown_field_ends_before_anything_is_read(tmp_path: Any) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        collection.add([Item(f"{n}", np.ones(1), {"a": n, "b": n}) for n in range(50)])
        assert collection.unread({"a": 1, "b": 1}) == 50
        with pytest.raises(UnknownFieldError):
            collection.search(np.ones(1), where={"guess": 1})
        assert collection.unread({"guess": 1}) == 0
        assert collection.unread({"b": 1}) == 50
        with pytest.raises(UnknownFieldError):
            collection.search(np.ones(1), where={"b": 1, "guess": 1})
        assert collection.unread({"b": 1}) == 50
        assert len(collection.search(np.ones(1), where={"b": 1})) == 1
        assert collection.unread({"b": 1}) == 0


def test_filters_tell_true_from_one_and_a_missing_key_from_null(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        values: list[Any] = [1, 1.0, True, None, "1", [1]]
        collection.add([Item(f"{n}", np.ones(1), {"v": v}) for n, v in enumerate(values)])
        collection.add([Item("none", np.ones(1))])

        def ids(value: Any) -> set[str]:
            return {match.id for match in collection.search(np.ones(1), where={"v": value})}

        assert ids(1) == {"0", "1", "5"}
        assert ids([[1]]) == {"5"}
        assert ids(True) == {"2"}
        assert ids(None) == {"3"}
        assert ids(["1", None]) == {"3", "4"}
        assert ids("absent") == set()


def test_a_list_agrees_with_each_of_its_values_and_with_itself(tmp_path: Path) -> None:
    lists: dict[str, Any] = {
        "ab": ["a", "b"],
        "ab twice": ["a", "b"],
        "b": ["b"],
        "text": "a",
        "numbers": [1, 2.5, "3"],
        "nested": [["a"], {"b": 1.0}],
        "none": [None],
        "empty": [],
        "composed": "caf\u00e9",
        "decomposed": ["cafe\u0301"],
        "rather text": '["a", "b"]',
    }
    with Collection.create(tmp_path / "c", 1) as collection:

        def ids(value: Any) -> set[str]:
            return {m.id for m in collection.search(np.ones(1), 99, where={"tag": value})}

        for once_more in ("", " again"):  # in a segment, then also in the tail
            collection.add(
                Item(name + once_more, np.ones(1), {"tag": tag}) for name, tag in lists.items()
            )
            ends = ["", *([once_more] if once_more else [])]
            for value, wanted in (
                ("a", {"ab", "ab twice", "text"}),
                ("b", {"ab", "ab twice", "b"}),
                (["a", "b"], {"ab", "ab twice", "b", "text"}),
                ([["a", "b"]], {"ab", "ab twice"}),
                ([["a"]], {"nested"}),
                ({"b": 1}, {"nested"}),
                (2.50, {"numbers"}),
                (1.0, {"numbers"}),
                (3, set()),
                ("3", {"numbers"}),
                (True, set()),
                (None, {"none"}),
                ("caf\u00e9", {"composed", "decomposed"}),
                ("cafe\u0301", {"composed", "decomposed"}),
                ([[]], {"empty"}),
                ("c", set()),
            ):
                assert ids(value) == {name + end for name in wanted for end in ends}, value
            collection.compact(everything=True)


def test_dates_are_stored_and_compared_as_text(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        made = {
            "day": date(2024, 5, 1),
            "at": datetime(2024, 5, 1, 2, tzinfo=UTC),
            "n": UUID(int=1),
        }
        collection.add([Item("a", np.ones(1), {**made, "deep": {"all": [made]}})])
        item = collection.get("a")
        assert item is not None
        stored = {
            "day": "2024-05-01",
            "at": "2024-05-01T02:00:00+00:00",
            "n": "00000000-0000-0000-0000-000000000001",
        }
        assert item.metadata == {**stored, "deep": {"all": [stored]}}
        for where in (made, stored, {"deep": {"all": [made]}}):
            assert [m.id for m in collection.search(np.ones(1), where=where)] == ["a"]


def test_a_filter_by_a_field_of_no_item_is_an_error_that_says_which_there_are(
    tmp_path: Path,
) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:

        def ids(**where: Any) -> list[str]:
            return [match.id for match in collection.search(np.ones(1), where=where)]

        assert ids(anything=1) == [], "an empty collection has no fields to compare with"
        collection.add([Item("a", np.ones(1), {"label": "x"}), Item("b", np.ones(1), {"n": 1})])
        for _ in range(2):
            with pytest.raises(
                UnknownFieldError, match=r"'lable': .* label, n; .* label\?"
            ) as caught:
                ids(label="x", lable="x")
            for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
                assert (error.missing, error.fields) == (("lable",), ("label", "n"))
                assert error.suggestions == ("label",)
        assert ids(label="x", n=1) == []
        assert ids(label="x") == ["a"]
        collection.compact()
        with pytest.raises(UnknownFieldError):
            ids(lable="x")
        collection.add([Item("c", np.ones(1), {"lable": "x"})])
        assert ids(lable="x") == ["c"]
        assert ids(lable="x", n=1) == []
        collection.add([Item("d", np.ones(1), {"lable": "x", "late": 1})])
        assert ids(lable="x") == ["c", "d"]
        assert ids(late=1) == ["d"]
        reading = Collection.open(tmp_path / "c", read_only=True)
        assert [match.id for match in reading.search(np.ones(1), where={"late": 1})] == ["d"]
