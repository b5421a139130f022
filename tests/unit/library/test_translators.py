"""train_translator as a program calls it, on a prepared corpus and in this process."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from seqvis import Translator, prepare_corpus, train_translator
from seqvis.artifacts import load
from seqvis.errors import ConfigError
from tests.unit.conftest import SMALL

CHOICES: dict[str, Any] = {**SMALL, "epochs": 1, "optimizer": {"learning_rate": 0.01}}


def test_a_prepared_corpus_becomes_a_translator(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "translator"
    for corpus in (questions, str(questions), load(questions, "corpus")):
        translator = train_translator(corpus, out, variant="plain", **CHOICES)
        assert isinstance(translator, Translator)
        assert translator.translate("Où est le chat ?").text
    shown = capsys.readouterr().err
    assert "train loss" in shown
    assert "going on from" in shown  # the calls after the first one found nothing left to do
    assert (tmp_path / "translator.run" / "curves.png").exists()


def test_what_was_given_in_another_form_than_text_is_taken(
    questions: Path, translator: Translator, tmp_path: Path
) -> None:
    begun = train_translator(questions, tmp_path / "t", init=translator, **CHOICES)
    assert begun.artifact.config["init"] == translator.artifact.location.uri


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"epochs": 0}, r"^train_translator: epochs: .*greater than or equal to 1 \(given: 0\)"),
        ({"epochz": 3}, "^train_translator: epochz: no such key, did you mean epochs"),
        ({"variant": "best"}, r"^train_translator: variant: .* \(given: 'best'\)"),
        ({"optimizer": 0.1}, r"optimizer: is a group of settings; give a dict .*given: 0\.1"),
        ({"optimizer": {"learning_rat": 0.1}}, r"optimizer\.learning_rat: no such key"),
        ({"source_lang": "fr"}, "a prepared corpus has its languages"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(
    given: dict[str, Any], named: str, questions: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        train_translator(questions, tmp_path / "t", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        (5, "not int: 5"),
        (b"my.fr", "not bytes: b'my.fr'"),
        (["my.fr"], "give two text files, source and target, not 1"),
        (["my.fr", 3], "a path or URI is needed here, not int: 3"),
    ],
)
def test_what_are_no_pairs_is_named(pairs: Any, named: str, tmp_path: Path) -> None:
    for function in (train_translator, prepare_corpus):
        with pytest.raises(TypeError, match=named):
            function(pairs, tmp_path / "out", source_lang="fr", target_lang="en")


def test_pairs_need_two_columns_and_their_languages(tmp_path: Path) -> None:
    frame = pd.DataFrame({"fr": ["Où ?"], "en": ["Where?"]})
    with pytest.raises(ConfigError, match=r"^prepare_corpus: source_lang: is needed"):
        prepare_corpus(frame, tmp_path / "c", target_lang="en")
    with pytest.raises(ConfigError, match="DataFrame has 1 column"):
        prepare_corpus(frame[["fr"]], tmp_path / "c", source_lang="fr", target_lang="en")
    for columns in ("fr,en", ["fr"]):
        with pytest.raises(TypeError, match="columns: give two names"):
            prepare_corpus(
                frame, tmp_path / "c", source_lang="fr", target_lang="en", columns=columns
            )
