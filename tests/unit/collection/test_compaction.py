"""When a writer that never stops should compact, so that its tail and journal stay bounded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqvis.collection import writer
from seqvis.collection.collection import Collection
from seqvis.collection.index import IndexSettings
from seqvis.collection.items import Item

SETTINGS = IndexSettings(exact_below=1000)


def item(number: int, version: int = 0) -> Item:
    vector = np.random.default_rng((number, version)).standard_normal(4)
    return Item(f"item-{number}", vector, {"version": version}, b"x" * 50)


def journal_size(path: Path) -> int:
    (journal,) = path.glob("journal-*")
    return journal.stat().st_size


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    given = [item(number) for number in range(100)]
    return Collection.build(tmp_path / "c", 4, given, settings=SETTINGS)


def replace_one(collection: Collection, step: int) -> None:
    collection.add([item(7, version=step)])


def add_and_delete_one(collection: Collection, step: int) -> None:
    collection.add([item(1000)])
    collection.delete(["item-1000"])


@pytest.mark.parametrize("change", [replace_one, add_and_delete_one])
def test_changing_the_same_items_for_ever_leaves_tail_and_journal_bounded(
    change: Callable[[Collection, int], None],
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "TAIL_ROWS", 20)
    sizes, compactions = [], 0
    for step in range(100):
        change(collection, step)
        sizes.append(journal_size(collection.path))
        if collection.compaction_due():
            assert collection.compact()
            assert not collection.compaction_due()
            compactions += 1
    assert compactions == 5
    assert max(sizes) < 1.5 * sizes[19]
    assert collection.statistics()["items"] == 100
    assert collection.statistics()["segments"] <= 2
    newest = collection.get("item-7")
    assert newest is not None
    assert newest.metadata["version"] in (0, 99)


def test_deletes_alone_make_it_due_and_compacting_begins_the_journal_anew(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "JOURNAL_RECORDS", 10)
    empty = journal_size(collection.path)
    for number in range(10):  # too few of the hundred to rewrite their segment
        assert not collection.compaction_due()
        collection.delete([f"item-{number}"])
    collection.close()
    with Collection.open(collection.path) as opened:
        assert opened.compaction_due()  # also where the journal was read and not written
        (segment,) = (opened.path / "segments").iterdir()
        assert opened.compact()
        assert not opened.compaction_due()
        assert not opened.compact()
        assert journal_size(opened.path) == empty
        assert list((opened.path / "segments").iterdir()) == [segment]
        assert len(opened) == 90
        assert "item-3" not in opened


def test_large_items_make_it_due_by_their_bytes(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "JOURNAL_BYTES", 10_000)
    collection.add([Item("small", np.ones(4))])
    assert not collection.compaction_due()
    collection.add([Item("large", np.ones(4), thumbnail=b"x" * 10_000)])
    assert collection.compaction_due()


def test_a_fifth_of_dead_rows_makes_it_due(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.delete([f"item-{number}" for number in range(20)])
    monkeypatch.setattr(writer, "DEAD_ROWS", 10)
    assert not collection.compaction_due()
    collection.delete(["item-20"])
    assert collection.compaction_due()
    monkeypatch.setattr(writer, "DEAD_ROWS", 22)
    assert not collection.compaction_due()
    monkeypatch.setattr(writer, "DEAD_ROWS", 10)
    collection.compact()
    assert not collection.compaction_due()
    assert collection.statistics() == {"items": 79, "tail": 0, "segments": 1, "dead": 0}
