"""Text that is put back as it was written, in many languages."""

from functools import lru_cache
from pathlib import Path

import pytest

from seqvis.samples.questions import generate_pairs
from seqvis.text.characters import is_protected
from seqvis.text.spacing import RULED, separators
from seqvis.text.spacy_languages import add_lower_cased_exceptions, spacy_tokenizer
from seqvis.text.tokenizers import Tokenizer, TokenizerSettings, load_tokenizer
from tests.support.sentences import SENTENCES

TECHNICAL = [
    "%d items, %s found",
    "Hello %(name)s, you have {count} new messages.",
    "Use {0} and {1}, or {{name}} ({user.name})",
    "${price} of %1$s, %-5.2f%% of %@",
    "%ds ago, v{version}, {0}px, {a}x{b} and {0}/{1}",
    "%Y-%m-%d %H:%M",
    "Click <b>here</b> or <br> there, <a href=\"http://x.org/a?b='1'\">link</a>.",
    "Fish &amp; chips &quot;now&quot;, AT&amp;T and it&#39;s",
    "Visit https://example.com/a?b=1&c=2#d, then mail me.too@example.co.uk.",
    "(See www.example.org/path_(x), http://a.b.)",
    "https://example.com/{id}/%s",
    "1,234.5 and 1.234,5 at 12:30, 3/4, 2024-05-01",
    "a @john #hashtag -5 C:\\temp",
]


@lru_cache
def tokenizer_for(language: str, lowercase: bool = False) -> Tokenizer:
    return load_tokenizer(TokenizerSettings(language=language, lowercase=lowercase))


def put_back(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    return [tokenizer.detokenize(tokens) for tokens in tokenizer.tokenize_many(texts)]


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_put_back_as_they_were_written(language: str) -> None:
    texts = SENTENCES[language]
    assert put_back(tokenizer_for(language), texts) == texts


def test_a_language_is_called_ruled_only_if_its_sentences_are_here() -> None:
    assert {*SENTENCES, "ja"} >= RULED  # Japanese needs a package: see below


@pytest.mark.parametrize("language", ["en", "de", "es", "zh", "ru", "tr"])
def test_placeholders_markup_and_addresses_are_put_back(language: str) -> None:
    assert put_back(tokenizer_for(language), TECHNICAL) == TECHNICAL


PROTECTED = [
    "%d", "%(name)s", "%1$s", "%5.2f", "%@", "{}", "{0}", "{name}", "{{x}}", "${a}", "#{b}",
    "%{c}", "{0:.2f}", "<b>", "</b>", "<br/>", "&eacute;", "&#39;", "&#x27;", "&nbsp;",
    "https://a.b/c?d=%20e", "www.a.org", "a.b+c@d-e.fr", "%d%%", "{0}-{1}",
]  # fmt: skip


@pytest.mark.parametrize("language", ["fr", "en", "zh", "ar", "mul"])
def test_a_protected_part_is_one_token_in_every_language(language: str) -> None:
    tokenizer = tokenizer_for(language)
    for token in PROTECTED:
        assert is_protected(token)
        for text in (token, f"({token})", f"“{token}”", f"x, {token}."):
            assert token in tokenizer.tokenize(text)


@pytest.mark.parametrize("text", ["100%", "50%de", "a<b", "<3", "R&B", "x@y", "%50", "{ a }", "$5"])
def test_usual_text_is_not_protected(text: str) -> None:
    split = [token.text for token in spacy_tokenizer("en")(text) if not token.text.isspace()]
    assert tokenizer_for("en").tokenize(text) == split


@pytest.mark.parametrize(("side", "language"), [(0, "fr"), (1, "en")])
def test_tokens_of_generated_questions_are_spacys(side: int, language: str) -> None:
    texts = [pair[side] for pair in generate_pairs(2000, seed=4)]
    assert_tokens_are_spacys(texts, language)


@pytest.mark.parametrize("language", ["fr", "en"])
def test_tokens_of_real_text_are_spacys(shared_data: Path, language: str) -> None:
    for name in ("multi30k/val", "tatoeba/tatoeba"):
        text = (shared_data / f"{name}.{language}").read_text(encoding="utf-8")
        assert_tokens_are_spacys(text.split("\n")[:2000], language)


def assert_tokens_are_spacys(texts: list[str], language: str) -> None:
    whole = spacy_tokenizer(language)
    add_lower_cased_exceptions(whole)
    expected = [[t.text for t in whole(text.lower()) if not t.text.isspace()] for text in texts]
    assert tokenizer_for(language, lowercase=True).tokenize_many(texts) == expected


def test_placeholders_and_addresses_keep_their_capitals() -> None:
    for settings in ({"case_token": False}, {"case_token": True}):
        tokenizer = load_tokenizer(TokenizerSettings(language="en", lowercase=True, **settings))
        text = "See {userName}, %1$S, {NAME} or http://a.b/Cd_E?F=g."
        assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_words_and_numbers_stay_whole_between_chinese_characters() -> None:
    tokens = tokenizer_for("zh").tokenize("我的iPhone15有5G和Wi-Fi，12.50元，发给a@b.cn。")
    assert tokens == [
        *"我的", "iPhone15", "有", "5G", "和", "Wi-Fi",
        "，", "12.50", "元", "，", *"发给", "a@b.cn", "。",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("language", "tokens", "text"),
    [
        (
            "ja",
            "「 行き ます か ？ 」 と 彼 は iPhone で 言っ た 。",
            "「行きますか？」と彼はiPhoneで言った。",
        ),
        ("th", "ฉัน รัก คุณ , สวัสดี Anna", "ฉันรักคุณ, สวัสดี Anna"),
        ("my", "သူ လာ သည် ။", "သူလာသည်။"),
        ("en", "the word 日本 means Japan", "the word 日本 means Japan"),
    ],
)
def test_scripts_without_spaces_get_none_in_their_own_languages(
    language: str, tokens: str, text: str
) -> None:
    separated = separators(tokens.split(), language)
    assert "".join(map("".join, zip(separated, tokens.split(), strict=True))) == text


@pytest.mark.parametrize("language", ["fr", "xx", "zh"])
def test_text_split_at_white_space_is_put_back(language: str) -> None:
    tokenizer = load_tokenizer(
        TokenizerSettings(kind="whitespace", language=language, lowercase=False)
    )
    texts = [*TECHNICAL, "L' uomo non c' è .", "„ Das geht nicht ! “", "我爱你 。"]
    assert put_back(tokenizer, texts) == texts
