"""The library's functions from data as people have it, on a real Ray."""

from pathlib import Path

import pandas as pd
import pytest

from seqvis import build_index, prepare_corpus, train_devise, train_translator
from seqvis.samples.questions import generate_pairs
from tests.support.searching import draw, make_vectors

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("no_processes")]

SMALL = {
    "model": {"embedding_size": 16, "hidden_size": 12},
    "batches": {"size": 32},
    "fit": {"precision": "float32"},
    "samples": 0,
}
LANGUAGES = {"source_lang": "fr", "target_lang": "en"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.DataFrame(generate_pairs(200, seed=4), columns=["fr", "en"])


def test_a_table_and_two_files_make_the_same_corpus(frame: pd.DataFrame, tmp_path: Path) -> None:
    for language in ("fr", "en"):
        text = "".join(f"{line}\n" for line in frame[language])
        (tmp_path / f"my.{language}").write_text(text, encoding="utf-8")
    turned = frame.assign(number=range(len(frame)))[["number", "en", "fr"]]
    made = [
        prepare_corpus(frame, tmp_path / "a", **LANGUAGES),
        prepare_corpus(turned, tmp_path / "b", columns=("fr", "en"), **LANGUAGES),
        prepare_corpus((tmp_path / "my.fr", str(tmp_path / "my.en")), tmp_path / "c", **LANGUAGES),
    ]
    parts = [
        [entry["sha256"] for name, entry in sorted(corpus.files.items()) if "parquet" in name]
        for corpus in made
    ]
    assert parts[0] == parts[1] == parts[2]
    assert made[0].metrics["train_pairs"] + made[0].metrics["valid_pairs"] > 150


def test_a_table_becomes_a_translator_and_the_same_call_goes_on(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t"
    train_translator(frame, out, epochs=1, **LANGUAGES, **SMALL)
    corpus = (tmp_path / "t.corpus" / "manifest.json").read_bytes()
    capsys.readouterr()
    translator = train_translator(frame, out, epochs=2, **LANGUAGES, **SMALL)
    shown = capsys.readouterr().err
    assert "going on from" in shown
    assert "tokenising" not in shown
    assert (tmp_path / "t.corpus" / "manifest.json").read_bytes() == corpus
    assert translator.translate("Où est le chat ?").source == "Où est le chat ?"

    longer = pd.concat([frame, frame.assign(fr="Non ? " + frame["fr"])])
    train_translator(longer, out, epochs=1, restart=True, **LANGUAGES, **SMALL)
    assert "tokenising" in capsys.readouterr().err
    assert (tmp_path / "t.corpus" / "manifest.json").read_bytes() != corpus


def test_a_folder_of_pictures_becomes_a_search(tmp_path: Path) -> None:
    make_vectors(tmp_path)
    for kind, label in enumerate(("dog", "cat", "boat", "truck")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(draw(kind, number))
    model = train_devise(
        tmp_path / "photos",
        tmp_path / "vectors",
        tmp_path / "m",
        backbone="efficientnet_lite0",
        image_size=64,
        epochs=20,
        batch_size=16,
    )
    with build_index(model, tmp_path / "m.features", tmp_path / "c", backend="exact") as search:
        found = search.image(tmp_path / "photos" / "boat" / "0.png", k=6)
        assert [match.metadata["name"] for match in found].count("boat") >= 5
