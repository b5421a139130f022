"""The extension's matches are those that NumPy and Python find."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.collection import view
from seqvis.collection.collection import Collection
from seqvis.collection.items import Item, Match

pytestmark = pytest.mark.skipif(
    view.native is None, reason="seqvis/native was not built, or is switched off: make native"
)


@pytest.mark.parametrize("dimension", [1, 7, 50, 129, 300])
def test_the_extension_returns_what_numpy_and_python_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimension: int
) -> None:
    """The same ids and scores to the last bit, of segments and of the tail, ties by their ids."""
    draw = np.random.default_rng(dimension)
    vectors = draw.standard_normal((120, dimension))
    vectors[[3, 50, 51, 100, 110]] = vectors[3]
    names = draw.permutation([f"{letter}{number}" for number in range(60) for letter in "aé"])
    items = [Item(str(n), v, {"n": str(n)}) for n, v in zip(names, vectors, strict=True)]
    queries = np.concatenate([vectors[3:4], draw.standard_normal((20, dimension))])
    with Collection.build(tmp_path / "c", dimension, items[:80], "exact") as collection:
        collection.add(items[80:])

        def search() -> list[Any]:
            limits = ((1, None), (3, None), (200, None), (10, 0.1))
            return [collection.search(queries, k, min_score=least) for k, least in limits]

        by_extension = search()
        assert all(match.metadata == {"n": match.id} for match in by_extension[0][0])
        monkeypatch.setattr(view, "native", None)
        assert by_extension == search()


def test_the_extension_reads_no_row_that_is_not_there() -> None:
    ones = np.ones((2, 3), np.float32)
    ends = np.array([1, 2])
    for rows, names in (([2], (b"ab", ends)), ([-1], (b"ab", ends)), ([1], (b"a", ends))):
        with pytest.raises(IndexError):
            view.native.best_matches(Match, ones, names, [b"", b""], [np.array(rows)], ones[:1], 5)
    for queries in (ones, np.ones((1, 4), np.float32)):
        with pytest.raises(ValueError, match="do not belong together"):
            view.native.best_matches(Match, ones, (b"ab", ends), [b""], [np.array([0])], queries, 5)
