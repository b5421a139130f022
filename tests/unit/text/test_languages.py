"""Reading a sentence for a translator, and writing its words as text."""

import unicodedata
from functools import cache

import pytest
import torch

from seqvis.corpus.counts import without_some_rare
from seqvis.text.languages import Languages, SourceSentence
from seqvis.text.tokenizers import (
    Tokenizer,
    TokenizerSettings,
    load_tokenizer,
    train_sentencepiece,
)
from seqvis.text.vocabulary import UNK, Vocabulary

SOURCE = ["Qui est l'avocat d'Émile ?", "Où est le cœur de Paul ?", "J'aime Marie - un peu."]
TARGET = ["Who is Émile's lawyer?", "Where is Paul's heart?", "I like the iPhone a bit."]


@cache
def tokenizer_for(language: str, **settings: bool) -> Tokenizer:
    return load_tokenizer(TokenizerSettings(language=language, **settings))


def build(
    source: list[str] = SOURCE,
    target: list[str] = TARGET,
    languages: tuple[str, str] = ("fr", "en"),
    **settings: bool,
) -> Languages:
    """Languages that know exactly the words of these sentences."""
    settings = {"case_token": True} | settings
    tokenizers = [tokenizer_for(language, **settings) for language in languages]
    vocabularies = []
    for tokenizer, lines in zip(tokenizers, (source, target), strict=True):
        counts = {word: 2 for line in lines for word in tokenizer.tokenize(line)}
        vocabularies.append(Vocabulary.build(counts))
    return Languages(tokenizers[0], tokenizers[1], vocabularies[0], vocabularies[1])


def attention(languages: Languages, source: SourceSentence, places: list[int]) -> torch.Tensor:
    """Weights of which each row is strongest at the given source token."""
    weights = torch.full((len(places), len(source.tokens) + 1), 0.01)
    for row, place in enumerate(places):
        weights[row, place] = 0.9
    return weights


def ids(languages: Languages, *words: str) -> list[int]:
    return languages.target_vocabulary.ids(words)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("Qui est l’avocat d’Émile ?", "Qui est l'avocat d'Émile ?"),
        ("Qui est lʼavocat d′Émile\u00a0?", "Qui est l'avocat d'Émile ?"),
        ("Qui\u202fest l'avo\u00adcat d'É\u200bmile\u2009?", "Qui est l'avocat d'Émile ?"),
        (unicodedata.normalize("NFD", "Où est le cœur d'Émile ?"), "Où est le cœur d'Émile ?"),
        ("\ufeffOù est\u2060 le cœur\u200e de Paul ?", "Où est le cœur de Paul ?"),
        ("J’aime Marie — un peu.", "J'aime Marie - un peu."),
        ("Où est le ｃœur de Ｐaul ？", "Où est le cœur de Paul ?"),
        ("QUI EST L’AVOCAT D’ÉMILE ?", "qui est l'avocat d'émile ?"),
    ],
)
def test_ways_to_type_a_sentence_are_read_as_the_one_that_is_known(typed: str, plain: str) -> None:
    languages = build()
    read = languages.read(typed)
    assert read.unknown == []
    assert read.ids == languages.read(plain).ids
    assert read.text == typed


def test_a_vocabulary_of_typographic_marks_is_met_as_well() -> None:
    languages = build(["Qui a dit “oui” à l’avocat – hier ?", "« Non », dit Paul…"])
    for typed in ('Qui a dit "oui" à l\'avocat - hier ?', "« Non », dit Paul..."):
        assert languages.read(typed).unknown == []


def test_marks_that_the_vocabulary_knows_stay_as_they_are() -> None:
    languages = build(["l'avocat l’avocat « oui » “oui” - – —"])
    tokens = languages.read("l’avocat « oui » “oui” –").tokens
    assert tokens == ("l’", "avocat", "«", "oui", "»", "“", "oui", "”", "–")


def test_the_case_tokens_that_the_vocabulary_lacks_are_left_out() -> None:
    languages = build()
    assert "_up_" not in languages.source_vocabulary
    assert languages.read("Où est LE cœur ?").tokens == languages.read("Où est le cœur ?").tokens


def test_a_capitalised_form_falls_back_to_small_letters_where_case_is_kept_as_is() -> None:
    languages = build(lowercase=False, case_token=False)
    assert languages.read("OÙ EST le Cœur ?").tokens == ("Où", "est", "le", "cœur", "?")
    assert languages.read("EST LE CŒUR DE PAUL ?").tokens == (
        "est",
        "le",
        "cœur",
        "de",
        "Paul",
        "?",
    )


def test_unknown_words_are_named_as_they_were_written() -> None:
    read = build().read("Où est iPhone-Zbigniew, l'ÉCOLE ?")
    assert read.unknown == ["iPhone", "Zbigniew", ",", "ÉCOLE"]


def test_unknown_names_look_to_the_model_like_those_it_has_learnt_to_copy() -> None:
    languages = build()
    for typed in ("Où est Zbigniew ?", "Où est McAllister ?", "Où est eBay ?", "Où est NASA ?"):
        assert languages.read(typed).ids == languages.read("Où est Zbigniew ?").ids
    assert languages.read("Où est 347 ?").ids != languages.read("Où est Zbigniew ?").ids


def test_a_copy_has_the_spelling_of_the_source_and_its_own_capitals() -> None:
    languages = build()
    source = languages.read("Où est McZyx d'eBay ?")
    words = ids(languages, "_cap_", "where", "is", "_cap_", "_unk_", "'s", "_unk_", "?")
    assert words[4] == UNK
    places = [0, 1, 2, source.tokens.index("eBay"), source.tokens.index("McZyx")]
    weights = attention(languages, source, [*places[:3], 3, places[3], 0, places[4], 0])
    assert languages.target_text(words, source, weights)[1] == "Where is eBay's McZyx?"


def test_names_and_numbers_are_never_lost_where_the_model_chose_another_word() -> None:
    languages = build()
    source = languages.read("Où est McZyx 347 xyz ?")
    name, number, other = (source.tokens.index(word) for word in ("McZyx", "347", "xyz"))
    words = ids(languages, "where", "is", "_cap_", "paul", "heart", "'s", "?")
    weights = attention(languages, source, [0, 1, 2, name, number, other, other])
    weights[6, name] = 0.95  # a mark is no word to replace
    assert languages.target_text(words, source, weights)[1] == "where is McZyx 347's?"
    assert "xyz" in source.unknown
    assert languages.target_text(words, source, None)[1] == "where is Paul heart's?"


def test_a_known_word_is_never_copied_while_an_unknown_one_is_there() -> None:
    languages = build()
    source = languages.read("Où est le cœur de Zbigniew ?")
    words = ids(languages, "where", "is", "_unk_", "?")
    weights = attention(languages, source, [0, 1, source.tokens.index("cœur"), 0])
    assert languages.target_text(words, source, weights)[1] == "where is Zbigniew?"


def test_without_attention_unknown_words_are_copied_in_their_order() -> None:
    languages = build()
    source = languages.read("Où est Aaa d'Bbb ?")
    words = ids(languages, "where", "is", "_unk_", "_unk_", "_unk_", "?")
    assert languages.target_text(words, source, None)[1] == "where is Aaa Bbb?"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("😀 Où est Paul ?", "😀 where is Paul?"),
        ("Où est Paul ? 🇫🇷👩‍👩‍👧❤️", "where is Paul? 🇫🇷👩‍👩‍👧❤️"),
        ("Où est Paul😀 ?", "where is Paul 😀?"),
    ],
)
def test_emoji_pass_through_where_they_stood(typed: str, expected: str) -> None:
    languages = build()
    source = languages.read(typed)
    assert source.ids == languages.read("Où est Paul ?").ids
    assert source.unknown == []
    weights = attention(languages, source, [1, 2, 3, 4, 5])
    words = ids(languages, "where", "is", "_cap_", "paul", "?")
    assert languages.target_text(words, source, weights)[1] == expected


def test_text_of_nothing_but_emoji_comes_back() -> None:
    languages = build()
    source = languages.read("👍🏽 ✨")
    assert source.tokens == ()
    assert languages.target_text([], source, None)[1] == "👍🏽 ✨"


def test_emoji_that_the_vocabulary_knows_are_words() -> None:
    languages = build(["Où est Paul ? 😀"])
    assert "😀" in languages.read("Où est Paul ? 😀").tokens


def test_sentencepiece_reads_marks_that_it_never_saw_as_those_it_knows() -> None:
    settings = TokenizerSettings(kind="sentencepiece", language="fr", case_token=True)
    model = train_sentencepiece(SOURCE * 20, settings, 400, 0)
    tokenizer = load_tokenizer(settings, model)
    pieces = Vocabulary.build(dict.fromkeys(tokenizer.pieces(), 1))  # type: ignore[attr-defined]
    languages = Languages(tokenizer, tokenizer, pieces, pieces)
    plain = languages.read("Qui est l'avocat d'Émile ?")
    assert languages.read("Qui est l’avocat d’Émile ?").tokens == plain.tokens
    source = languages.read("Qui est Paul ? 😀")
    assert source.pictographs == ((len(source.tokens), "😀"),)


def test_reading_as_prepared_changes_nothing_but_what_is_always_cleaned() -> None:
    languages = build()
    read = languages.read_as_prepared("L’avo\u200bcat 😀")
    assert read.tokens == ("_cap_", "l’", "avocat", "😀")
    assert read.written == ("", "L’", "avocat", "😀")


def test_rare_words_are_left_out_on_both_sides_alike_and_within_their_share() -> None:
    names = {f"name{number}": 1 for number in range(400)}
    counts = {"source": {"le": 900, **names}, "target": {"the": 500, "rare": 1, **names}}
    occurrences = {side: sum(words.values()) for side, words in counts.items()}
    chosen = without_some_rare(counts, occurrences, share=0.1)
    gone = {side: set(counts[side]) - set(chosen[side]) for side in counts}
    assert gone["source"] == gone["target"] - {"rare"}
    assert 0.05 < len(gone["target"]) / occurrences["target"] < 0.12
    half = without_some_rare(counts, occurrences, share=1.0)
    assert 0.4 < len(half["source"]) / len(counts["source"]) < 0.6
    assert without_some_rare(counts, occurrences, share=0.0) == counts


def test_words_that_are_left_out_already_count_as_unknown() -> None:
    counts = {"source": {"le": 90, "un": 1}, "target": {"the": 90, "one": 1}}
    assert without_some_rare(counts, {"source": 100, "target": 100}, share=0.05) == counts
