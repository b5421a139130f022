"""Language codes of every spelling that users write."""

import pyarrow as pa
import pytest

from jobs.build_vectors import BuildVectorsSettings
from jobs.prepare_corpus import PrepareCorpus
from seqvis.config import settings_from
from seqvis.corpus.filters import Tally
from seqvis.corpus.settings import PrepareSettings
from seqvis.corpus.tokens import usable_pairs
from seqvis.errors import ConfigError
from seqvis.text.spacy_languages import canonical_language
from seqvis.text.tokenizers import TokenizerSettings, check_language, load_tokenizer

FLAGS = ["--source", "a", "--target", "b", "--out", "c"]


@pytest.mark.parametrize(
    ("canonical", "spellings"),
    [
        ("fr", ["fr", "FR", "fra", "fre", "fr-CA", "fr_FR", "Fra"]),
        ("en", ["eng", "en-US", "en_GB", "EN-gb"]),
        ("de", ["deu", "ger", "de-CH"]),
        ("zh", ["zho", "chi", "cmn", "zh-Hans", "zh_TW", "zh-Hant-HK", "ZH"]),
        ("pt", ["por", "pt-BR", "pt_pt"]),
        ("ar", ["ara", "arb"]),
        ("fa", ["fas", "per", "pes"]),
        ("he", ["heb", "iw"]),
        ("ro", ["ron", "rum", "mo"]),
        ("sw", ["swa", "swh"]),  # spaCy has no rules for it
        ("grc", ["grc"]),  # ISO 639-1 has no code for it
    ],
)
def test_all_codes_of_a_language_are_one(canonical: str, spellings: list[str]) -> None:
    assert {canonical_language(code) for code in spellings} == {canonical}


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("english", "en"), ("French", "fr"), ("portugese", "pt"), ("xx", "mul"), ("jp", "ja"),
        ("cz", "cs"), ("en_GB.UTF-8", "en"), (" de", "de"),
    ],
)  # fmt: skip
def test_another_word_is_refused_with_the_code_that_was_meant(code: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"not a language code .* did you mean {meant}[?]"):
        canonical_language(code)


@pytest.mark.parametrize("code", ["", "qqqq", "zz", "und", "日本", "x-mine", "?", "f"])
def test_what_is_like_no_language_gets_examples(code: str) -> None:
    with pytest.raises(ValueError, match="give one such as fr, fra or pt-BR"):
        canonical_language(code)


def test_jobs_store_the_canonical_code_and_name_the_flag_that_is_wrong() -> None:
    settings = PrepareCorpus.from_command_line(
        [*FLAGS, "--source-lang", "fra", "--target-lang", "en-US"]
    )
    assert (settings.source_lang, settings.target_lang) == ("fr", "en")
    with pytest.raises(ConfigError, match=r"--target-lang: .* did you mean en") as raised:
        PrepareCorpus.from_command_line([*FLAGS, "--source-lang", "fr", "--target-lang", "english"])
    assert "(given: 'english')" in str(raised.value)
    flags = ["--train-on", "a", "--out", "b", "--language"]
    assert BuildVectorsSettings.from_command_line([*flags, "ger"]).language == "de"
    with pytest.raises(ConfigError, match=r"--language: .* did you mean de"):
        BuildVectorsSettings.from_command_line([*flags, "german"])


def test_the_question_filter_knows_english_by_each_of_its_codes() -> None:
    columns = {"row": [0, 1], "source": ["Qui vient ?", "Tu viens ?"]}
    columns |= {"target": ["Who comes?", "Are you coming?"], "problem": [None, None]}
    for code in ("en", "eng", "en_GB"):
        settings = PrepareSettings(
            source="a", target="b", out="c", source_lang="fre", target_lang=code, filter="questions"
        )
        kept = usable_pairs(pa.table(columns), settings, Tally())
        assert kept["target"].to_pylist() == ["Who comes?"]


@pytest.mark.parametrize("code", ["no", "tl", "fil", "mul", "ku"])
def test_spacys_own_names_need_not_be_known(code: str) -> None:
    settings = TokenizerSettings(language=canonical_language(code))
    check_language(settings)
    assert load_tokenizer(settings).tokenize("Abc, def.") == ["abc", ",", "def", "."]


@pytest.mark.parametrize("code", ["sw", "br"])
def test_a_language_without_rules_is_refused_before_any_work(code: str) -> None:
    with pytest.raises(ConfigError, match=f"{code}: spaCy cannot tokenise .*sentencepiece"):
        check_language(TokenizerSettings(language=code))
    check_language(TokenizerSettings(language=code, kind="whitespace"))


def test_artifacts_with_other_codes_still_open() -> None:
    stored = {"kind": "spacy", "language": "eng", "lowercase": True, "case_token": False}
    tokenizer = load_tokenizer(settings_from(TokenizerSettings, stored, "tokenizers.json"))
    assert tokenizer.detokenize(["i", "do", "n't", "."]) == "I don't."
    stored |= {"kind": "whitespace", "language": "Elvish"}
    tokenizer = load_tokenizer(settings_from(TokenizerSettings, stored, "tokenizers.json"))
    assert tokenizer.detokenize(["a", "."]) == "A ."
