"""Spacing that is learned from a corpus, and how it reaches a translator."""

import random
from pathlib import Path

import pytest

from seqvis.artifacts import create, load
from seqvis.corpus.spacing import (
    LearnSpacing,
    Spacing,
    SpacingSample,
    in_sample,
    with_separators,
)
from seqvis.text.languages import LANGUAGE_FILES, load_languages
from seqvis.text.spacing import FEWEST, RULED, LearnedSpacing, as_kept, learn, separators
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer
from tests.support.corpora import write_corpus

NO_BREAK, NARROW = "\u00a0", "\u202f"
NOUNS = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("ato", "isu", "eki", "onda")]


def texts_of(pattern: str, count: int = 400) -> tuple[str, ...]:
    """Different sentences: each `N` of the pattern is a noun, each `0` a number."""
    draw = random.Random(1)

    def fill(mark: str) -> str:
        return {"N": draw.choice(NOUNS), "0": str(draw.randrange(10, 999))}.get(mark, mark)

    return tuple("".join(map(fill, pattern)) for _ in range(count))


def learned_from(texts: tuple[str, ...], **settings: str) -> tuple[TokenizerSettings, Spacing]:
    tokenizer = TokenizerSettings(lowercase=False, **settings)  # type: ignore[arg-type]
    return tokenizer, LearnSpacing(tokenizer)(SpacingSample(texts))


CASES = [
    ("fr", f"Le N voit N{NO_BREAK}? «{NO_BREAK}N{NO_BREAK}»"),
    ("fr", f"Le N, le N{NARROW}! Et 0{NARROW}000{NO_BREAK}€"),
    ("fr", "Le N voit N? «N» : 0%"),  # as in Canada or Switzerland
    ("es", "El N es el 0 % de 0 N"),
    ("de", "Der N hat 0 °C – N - N"),
    ("en", "N (0km) / N - N"),
    ("fa", "کتاب N کجاست؟"),
    ("zh", "我用 N 写了 0 个程序。"),
    ("sq", "N'a e N-it, ‘N’ N!"),  # languages without rules
    ("eu", "si N^N +N =N"),
    ("mul", "N;N ;N"),
]


@pytest.mark.parametrize(("language", "pattern"), CASES)
def test_text_is_put_back_as_its_corpus_writes_it(language: str, pattern: str) -> None:
    settings, spacing = learned_from(texts_of(pattern), language=language)
    assert spacing.measured > 20
    assert spacing.exact == spacing.measured
    assert spacing.warning(settings) is None or language not in RULED
    tokenizer = load_tokenizer(settings, spacing=spacing.learned)
    others = texts_of(pattern.replace("N", "Xyz"), 20)  # words that the corpus does not have
    assert [tokenizer.detokenize(tokens) for tokens in tokenizer.tokenize_many(others)] == [*others]


def test_the_rules_alone_would_get_them_wrong() -> None:
    for language, pattern in CASES:
        settings = TokenizerSettings(language=language, lowercase=False)
        tokenizer = load_tokenizer(settings)
        tokens, written = with_separators(tokenizer, texts_of(pattern, 1)[0])
        if language != "sq":  # only some of its apostrophes
            assert separators(tokens, language) != written, pattern


def test_text_split_at_white_space_keeps_its_no_break_spaces() -> None:
    settings, spacing = learned_from(
        texts_of(f"N N{NO_BREAK}! N 0{NARROW}000"), language="sw", kind="whitespace"
    )
    assert (spacing.exact, spacing.warning(settings)) == (spacing.measured, None)
    tokenizer = load_tokenizer(settings, spacing=spacing.learned)
    text = f"Abc{NO_BREAK}! 12{NARROW}000"
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_case_marks_stand_in_no_ones_way() -> None:
    settings = TokenizerSettings(language="fr", case_token=True)
    spacing = LearnSpacing(settings)(SpacingSample(texts_of(f"Qui, PAUL ou Anne N{NARROW}?")))
    tokenizer = load_tokenizer(settings, spacing=spacing.learned)
    text = f"Oui, PAUL, qui vient Xyz{NARROW}?"
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_a_few_odd_lines_override_no_rule() -> None:
    odd = ("Le chat dort .",) * (FEWEST - 1)
    assert len(learned_from((*texts_of("Le N dort."), *odd), language="fr")[1].learned) == 0


def test_what_most_of_the_text_does_is_learned_per_pair() -> None:
    texts = texts_of("N - N") + texts_of("wi-fi N", 30)
    settings, spacing = learned_from(texts, language="en")
    tokenizer = load_tokenizer(settings, spacing=spacing.learned)
    for text in ("wi-fi abc", "abc - xyz"):
        assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_the_order_of_the_sentences_does_not_matter_and_nothing_is_lost_on_disk() -> None:
    texts = texts_of(f"Le N{NO_BREAK}? - N 0{NARROW}%") + texts_of("N-N 0% ?")
    _, first = learned_from(texts, language="fr")
    _, second = learned_from(texts[::-1], language="fr")
    assert first == second
    assert len(first.learned) > 0
    assert LearnedSpacing.from_bytes(first.learned.to_bytes()) == first.learned
    assert first.learned.to_bytes() == second.learned.to_bytes()


def test_a_table_stays_small_whatever_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqvis.text.spacing.MOST", 3)
    tokens = [f"w{n}" for n in range(100)]
    letters = ["a" * n + "b" for n in range(1, 101)]
    sentence = (letters, separators(letters, "en"), ["", *["", NO_BREAK] * 49, ""])
    assert len(learn([sentence] * FEWEST)) <= 4 * 3
    assert len(learn([])) == len(LearnedSpacing().stages) == 0
    assert LearnedSpacing().correct(tokens, [" "] * 100) == [" "] * 100


@pytest.mark.parametrize(
    ("written", "kept"),
    [(" ", " "), ("  ", " "), ("\t", " "), (NO_BREAK, NO_BREAK), (NO_BREAK + " ", " "),
     ("\u3000", "\u3000"), ("\u2028", " "), (NARROW * 2, NARROW)],
)  # fmt: skip
def test_one_usual_space_stands_for_several(written: str, kept: str) -> None:
    assert as_kept(written) == kept


def test_a_user_is_warned_of_text_that_does_not_come_back() -> None:
    settings, spacing = learned_from(texts_of("N, N."), language="sq")
    assert "sq: there are no rules" in str(spacing.warning(settings))
    draw = random.Random(2)
    mixed = tuple(draw.choice((" - ", "-", "- ")).join(text.split()) for text in texts_of("N N"))
    settings, spacing = learned_from(mixed, language="en")
    assert "en: only" in str(spacing.warning(settings))
    settings, spacing = learned_from(texts_of("N, N."), language="en")
    assert spacing.warning(settings) is None


def test_a_smaller_sample_is_a_part_of_a_larger_one() -> None:
    texts = texts_of("N 0 N", 2000)
    small, large = in_sample(texts, 0.1), in_sample(texts, 0.5)
    assert 100 < sum(small) < 300 < 800 < sum(large) < 1200
    assert all(in_large for in_small, in_large in zip(small, large, strict=True) if in_small)
    assert all(in_sample(texts, 1.0))
    assert not any(in_sample(texts, 0.0))


def test_languages_of_a_corpus_put_text_back_with_what_it_taught(tmp_path: Path) -> None:
    corpus = load(str(write_corpus(tmp_path / "a", [("a", "b c")], [("a", "b")])), "corpus")
    assert load_languages(corpus).target_tokenizer.detokenize(["10", "km"]) == "10 km"
    learned = learned_from(texts_of("N 0km"), language="en")[1].learned
    with create(str(tmp_path / "b"), "corpus", {}) as writer:
        for name in LANGUAGE_FILES:
            if name in corpus.files:
                writer.path(name).write_bytes(corpus.file(name).read_bytes())
        writer.path("target.spacing.json").write_bytes(learned.to_bytes())
    languages = load_languages(load(str(tmp_path / "b"), "corpus"))
    assert languages.target_tokenizer.detokenize(["10", "km"]) == "10km"
    assert languages.source_tokenizer.detokenize(["10", "km"]) == "10 km"
