"""Words and ids."""

import pytest

from seqvis.errors import ArtifactError
from seqvis.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary


def test_the_specials_have_the_first_four_ids() -> None:
    vocabulary = Vocabulary.build({"a": 1})
    assert (BOS, PAD, EOS, UNK) == (0, 1, 2, 3)
    assert vocabulary.words == ("_bos_", "_pad_", "_eos_", "_unk_", "a")


def test_words_come_by_falling_count_and_then_by_word() -> None:
    vocabulary = Vocabulary.build({"b": 2, "rare": 1, "a": 2, "often": 9}, max_size=3)
    assert vocabulary.words[4:] == ("often", "a", "b")


def test_words_that_occur_too_seldom_are_left_out() -> None:
    assert Vocabulary.build({"a": 3, "b": 2}, min_count=3).words[4:] == ("a",)


def test_an_unknown_word_gets_the_unknown_id_and_no_end_is_added() -> None:
    assert Vocabulary.build({"a": 1}).ids(["a", "zebra"]) == [4, UNK]


def test_a_special_in_the_text_does_not_become_that_special() -> None:
    vocabulary = Vocabulary.build({"_pad_": 50, "_eos_": 5, "a": 1})
    assert vocabulary.ids(["_pad_", "_eos_"]) == [UNK, UNK]
    assert len(vocabulary) == 5


@pytest.mark.parametrize("word", ["\n", "\\n", "\\", "\\\\n", "\u2028", "\r", " ", "\0", "é", "💡"])
def test_any_word_survives_storing(word: str) -> None:
    vocabulary = Vocabulary((*SPECIALS, word, "after"))
    assert Vocabulary.from_bytes(vocabulary.to_bytes(), "x").words == vocabulary.words


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"_bos_\n_pad_\n_eos_\n_unk_\ncut", b"\xff\n"])
def test_a_file_that_is_no_vocabulary_is_named(content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"my\.vocab"):
        Vocabulary.from_bytes(content, "my.vocab")


def test_the_fingerprint_tells_vocabularies_apart() -> None:
    first, second = Vocabulary.build({"a": 2, "b": 1}), Vocabulary.build({"a": 1, "b": 2})
    assert first.fingerprint() == Vocabulary.build({"a": 7, "b": 1}).fingerprint()
    assert first.fingerprint() != second.fingerprint()
