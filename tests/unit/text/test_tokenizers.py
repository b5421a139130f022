"""Text to tokens and back."""

import time
from pathlib import Path

import pytest

from seqvis.errors import ArtifactError, ConfigError
from seqvis.text.tokenizers import (
    LONGEST_WORD,
    SentencePieceTokenizer,
    TokenizerSettings,
    check_language,
    load_tokenizer,
    train_sentencepiece,
)


def read(path: Path, count: int | None = None) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1][:count]


def surviving_share(lines: list[str], language: str) -> float:
    """Share of the lines that are the same, case and runs of spaces aside, after both ways."""
    tokenizer = load_tokenizer(TokenizerSettings(language=language))
    back = [tokenizer.detokenize(tokens) for tokens in tokenizer.tokenize_many(lines)]
    same = [
        line.lower().split() == text.lower().split() for line, text in zip(lines, back, strict=True)
    ]
    return sum(same) / len(same)


@pytest.mark.parametrize("language", ["fr", "en"])
@pytest.mark.parametrize("name", ["multi30k/val", "tatoeba/tatoeba"])
def test_real_lines_survive_tokenising_and_detokenising(
    shared_data: Path, name: str, language: str
) -> None:
    lines = read(shared_data / f"{name}.{language}", 1014)
    assert surviving_share(lines, language) > 0.99


@pytest.mark.parametrize("language", ["fr", "en"])
def test_the_cache_of_words_gives_what_spacy_gives_for_whole_lines(
    shared_data: Path, language: str
) -> None:
    import spacy

    lines = read(shared_data / "tatoeba" / f"tatoeba.{language}", 3000)
    lines.append("no\u00a0break \u2028 separator\u202f? \u3000 tab\there")
    tokenizer = load_tokenizer(
        TokenizerSettings(language=language),
        cached_words=500,  # so that it overflows on the way
    )
    whole = spacy.blank(language).tokenizer
    expected = [[t.text for t in whole(line.lower()) if not t.text.isspace()] for line in lines]
    assert tokenizer.tokenize_many(lines) == expected


@pytest.mark.parametrize("piece", ["(", "l'", "a", "https://a.b/", "x{y}"])
def test_a_word_without_end_is_split_in_pieces_and_nothing_of_it_is_lost(piece: str) -> None:
    """What splits a word takes the square of its length, which must not be for a client to choose:
    4,000 brackets took more than a second, and now a twentieth of that."""
    word = (piece * 4000)[:4000]
    tokenizer = load_tokenizer(TokenizerSettings(language="fr"))
    tokenizer.tokenize("un")  # the rules are loaded
    began = time.process_time()
    tokens = tokenizer.tokenize(word)
    assert time.process_time() - began < 0.5
    assert "".join(tokens) == word
    assert max(map(len, tokens)) <= LONGEST_WORD


def test_a_link_of_ordinary_length_is_not_cut() -> None:
    link = "https://example.org/" + "a/b" * 70
    assert load_tokenizer(TokenizerSettings(language="fr")).tokenize(f"voir {link}") == [
        "voir",
        link,
    ]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("fr", "Qu'est-ce qu'il y a aujourd'hui ?"),
        ("fr", "Où sommes-nous, et pourquoi n'a-t-il pas répondu : « Non ! » ?"),
        ("fr", "Parle-t-on (souvent) d'aujourd'hui ; jusqu'ici, oui."),
        ("en", "I can't say it isn't John's \"blue-eyed\" dog (or the girls' cat), can I?"),
        ("en", "They've gone; we'll stay: it costs $5, i.e. 50% off!"),
        ("en", "He cannot sing 'Yesterday' well."),
    ],
)
def test_readable_text_comes_back(language: str, text: str) -> None:
    tokenizer = load_tokenizer(TokenizerSettings(language=language, case_token=True))
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_case_tokens_stand_before_their_word_and_are_undone() -> None:
    tokenizer = load_tokenizer(TokenizerSettings(language="en", case_token=True))
    tokens = tokenizer.tokenize("NASA called Mary and I")
    assert tokens == ["_up_", "nasa", "called", "_cap_", "mary", "and", "_cap_", "i"]
    assert tokenizer.detokenize(tokens) == "NASA called Mary and I"


def test_without_case_tokens_only_the_first_letter_comes_back() -> None:
    tokenizer = load_tokenizer(TokenizerSettings(language="en"))
    assert tokenizer.detokenize(["(", "mary", "sings", ")"]) == "(Mary sings)"


def test_a_stray_case_token_at_the_end_leaves_no_trace() -> None:
    tokenizer = load_tokenizer(TokenizerSettings(language="en", case_token=True))
    assert tokenizer.detokenize(["yes", "_cap_"]) == "yes"


def test_punctuation_can_be_normalised_so_that_variants_are_one_word() -> None:
    settings = TokenizerSettings(language="fr", normalize_punctuation=True)
    tokenizer = load_tokenizer(settings)
    curly = "L’homme a dit\u00a0: “oui”…"
    assert tokenizer.tokenize(curly) == tokenizer.tokenize('L\'homme a dit : "oui"...')
    untouched = load_tokenizer(TokenizerSettings(language="fr"))
    assert "l’" in untouched.tokenize(curly)


def test_white_space_alone_gives_no_tokens() -> None:
    for kind in ("spacy", "whitespace"):
        tokenizer = load_tokenizer(TokenizerSettings(kind=kind, language="fr"))
        assert tokenizer.tokenize(" \u00a0\t ") == []
        assert tokenizer.detokenize([]) == ""


def test_whitespace_splits_at_spaces_only() -> None:
    tokenizer = load_tokenizer(TokenizerSettings(kind="whitespace", language="xx"))
    assert tokenizer.tokenize("Don't  stop.") == ["don't", "stop."]
    assert tokenizer.detokenize(["don't", "stop."]) == "Don't stop."


def test_a_language_that_spacy_does_not_know_is_one_clear_message() -> None:
    with pytest.raises(ConfigError, match=r"qq: spaCy cannot tokenise .*sentencepiece"):
        check_language(TokenizerSettings(language="qq"))
    with pytest.raises(ConfigError, match=r"qq: spaCy cannot tokenise .*sentencepiece"):
        load_tokenizer(TokenizerSettings(language="qq")).tokenize("x")
    for language in ("fr", "en", "ja"):
        check_language(TokenizerSettings(language=language))


CHINESE = ["你好吗？", "今天天气很好。", "我们去学校。", "他在哪里工作？", "这本书很有意思。"] * 20


def test_sentencepiece_gives_chinese_text_back_even_characters_it_never_saw() -> None:
    settings = TokenizerSettings(kind="sentencepiece", language="zh")
    tokenizer = load_tokenizer(settings, train_sentencepiece(CHINESE, settings, 8000, 0))
    for text in (*CHINESE[:5], "龘鑫💡在哪里？"):
        tokens = tokenizer.tokenize(text)
        assert tokenizer.detokenize(tokens) == text
        assert set(tokens) <= set(tokenizer.pieces())  # type: ignore[attr-defined]


def test_training_sentencepiece_twice_gives_the_same_model() -> None:
    settings = TokenizerSettings(kind="sentencepiece", language="zh")
    first, second = (train_sentencepiece(CHINESE, settings, 400, 3) for _ in range(2))
    assert first == second


def test_sentencepiece_keeps_case_through_case_tokens() -> None:
    settings = TokenizerSettings(kind="sentencepiece", language="en", case_token=True)
    lines = ["Mary sees NASA and the sea", "the sea sees Mary"] * 30
    tokenizer = load_tokenizer(settings, train_sentencepiece(lines, settings, 400, 0))
    tokens = tokenizer.tokenize("Mary sees NASA")
    assert {"_cap_", "_up_"} <= set(tokens)
    assert tokenizer.detokenize(tokens) == "Mary sees NASA"


@pytest.mark.parametrize("cases", [{"lowercase": False}, {"lowercase": True, "case_token": True}])
def test_sentencepiece_gives_back_every_character_and_space(cases: dict[str, bool]) -> None:
    settings = TokenizerSettings(kind="sentencepiece", language="zh", **cases)
    texts = [
        "价格：￥１００（约$15）……",
        "Où est\u00a0Paul\u202f? ½ ﬁn…",
        "%d items, {Name} % A\u3000B",
    ]
    tokenizer = load_tokenizer(settings, train_sentencepiece(texts * 20, settings, 400, 0))
    assert [tokenizer.detokenize(tokens) for tokens in tokenizer.tokenize_many(texts)] == texts


def test_stray_case_tokens_of_sentencepiece_leave_no_trace() -> None:
    settings = TokenizerSettings(kind="sentencepiece", language="en", case_token=True)
    tokenizer = load_tokenizer(settings, train_sentencepiece(["A b", "c D"] * 9, settings, 300, 0))
    assert tokenizer.detokenize([*tokenizer.tokenize("c A b"), "_cap_"]) == "c A b"
    assert tokenizer.detokenize(["_cap_", "_up_", *tokenizer.tokenize("b")]) == "B"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("text", ["%d items", "{name} came", "(&eacute;) etc", "https://a.b/c is"])
def test_a_placeholder_at_the_start_gets_no_capital(language: str, text: str) -> None:
    for kind in ("spacy", "whitespace"):
        tokenizer = load_tokenizer(TokenizerSettings(kind=kind, language=language))
        if not (kind == "whitespace" and text.startswith("(")):
            assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


@pytest.mark.parametrize("model", [None, b"", b"not a model"])
def test_a_missing_or_broken_sentencepiece_model_is_an_artifact_error(model: bytes | None) -> None:
    with pytest.raises(ArtifactError, match="SentencePiece"):
        SentencePieceTokenizer(TokenizerSettings(kind="sentencepiece", language="zh"), model)
