"""Tables whose columns have types, Parquet and Hugging Face's: what is read, and what refused."""

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from seqvis.cluster import ignore_progress
from seqvis.corpus.inputs.opening import open_input
from seqvis.corpus.inputs.source import PairSource
from seqvis.corpus.settings import PrepareSettings
from seqvis.errors import ConfigError, DataError
from seqvis.storage import locate
from tests.support.pairs import as_dataset, as_parquet, as_splits, read, write_aligned


def tables_that_do_not_fit() -> dict[str, tuple[pa.Table, str | None, str]]:
    good = pa.table({"fr": ["un"], "en": ["one"], "n": [1], "t": [{"fr": "un"}]})
    return {
        "no columns": (good, None, r"give --columns .*; it has fr, en, n, t\.fr"),
        "a missing column": (good, "fra,en", "has no column fra, it has .*, did you mean fr?"),
        "a missing path": (good, "t.fr,t.en", r"has no column t\.en, it has fr, en, n, t\.fr"),
        "numbers": (good, "fr,n", "column n holds int64, not text; name other --columns"),
        "a struct": (good, "fr,t", "has no column t, it has"),
        "no rows": (
            good.slice(1),
            "fr,en",
            "(has no rows|.* or with an empty or damaged one .*); give ",
        ),
    }


@pytest.mark.parametrize("case", tables_that_do_not_fit())
@pytest.mark.parametrize("kind", ["Parquet", "a dataset"])
def test_a_table_that_does_not_fit_is_refused(
    kind: str, case: str, opened: Callable[..., PairSource]
) -> None:
    table, columns, message = tables_that_do_not_fit()[case]
    if kind == "Parquet":
        pq.write_table(table, "pairs")
    else:
        Dataset(table).save_to_disk("pairs")
    with pytest.raises((DataError, ConfigError), match=f"^pairs:? {message}"):
        opened(pairs="pairs", columns=columns)


def test_a_name_that_a_table_has_twice_is_refused(opened: Callable[..., PairSource]) -> None:
    pq.write_table(pa.table([["un"], ["one"], ["two"]], ["fr", "en", "en"]), "a")
    with pytest.raises(DataError, match=r"^a has several columns en; rename all but one of them"):
        opened(pairs="a", columns="fr,en")


def test_texts_that_are_no_utf8_are_found_in_parquet(opened: Callable[..., PairSource]) -> None:
    pq.write_table(pa.table({"fr": [b"un", b"th\xe9"], "en": ["one", "tea"]}), "a")
    pairs = opened(pairs="a", columns="fr,en")
    assert [row["problem"] for row in read(pairs)] == [None, "source_not_utf8"]
    assert "with its texts in UTF-8" in pairs.encoding_advice(0)


def test_a_dataset_without_the_split_says_which_it_has(
    opened: Callable[..., PairSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_splits(Path("splits"))
    assert len(opened(pairs="splits", columns="fr,en", split="test").rows) == 1
    languages = {"source_lang": "fr", "target_lang": "en", "out": "out"}
    alone = PrepareSettings(pairs="splits", columns="fr,en", valid_split="test", **languages)
    assert not alone.holds_out
    assert len(open_input(alone, "valid")(locate("scratch"), ignore_progress).rows) == 1
    files = PrepareSettings(source="a", target="b", valid_split="test", **languages)
    with pytest.raises(ConfigError, match="--valid-split go with pairs in one file"):
        open_input(files, "valid")
    with pytest.raises(
        DataError, match=r"^splits: has no split tests, it has train, test, did you"
    ):
        opened(pairs="splits", columns="fr,en", split="tests")
    as_dataset(Path("one"))
    with pytest.raises(DataError, match=r"^one: has no split test, it has train; name it by"):
        opened(pairs="one", columns="translation.fr,translation.en", split="test")
    Dataset.from_dict({"fr": ["un"], "en": ["one"]}).save_to_disk("unnamed")
    with pytest.raises(DataError, match=r"^unnamed: is one dataset without splits; leave out"):
        opened(pairs="unnamed", columns="fr,en", split="test")
    Path("folder").mkdir()
    with pytest.raises(DataError, match=r"^folder: is a folder without a dataset"):
        opened(pairs="folder", columns="fr,en")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"datasets: not installed; pip install 'seqvis\[hub\]'"):
        opened(pairs="one", columns="fr,en")


def test_a_dataset_is_loaded_by_its_name(
    opened: Callable[..., PairSource], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Path("corpus").mkdir()
    as_parquet(Path("corpus/train.parquet"))
    expected = write_aligned()
    assert read(opened(pairs="hf://./corpus", columns="fr,en"), rows_per_task=7) == expected
    with pytest.raises(
        DataError, match=r"^hf://\./corpus: .*cannot load it with the split dev .*train"
    ):
        opened(pairs="hf://./corpus", columns="fr,en", split="dev")
