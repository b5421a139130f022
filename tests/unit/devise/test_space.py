"""Points of labels: word vectors, and where synsets are in WordNet."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from jobs import evaluate_devise, train_devise
from seqvis.devise.labels import WordNet, label_vectors
from seqvis.devise.model import DeviseModel
from seqvis.devise.space import Space, unit
from seqvis.search.pictures import find_candidates
from seqvis.vectors.store import WordVectors
from tests.support.devise import NOUNS, UNSEEN, train_flags
from tests.unit.conftest import Job

SIZE = 64
DOG, CAT, TRUCK, BREAD = (list(NOUNS)[place] for place in (0, 1, 5, 15))
ROOT = "n00001740"  # entity


@pytest.fixture(scope="module")
def vectors(data: Path) -> WordVectors:
    return WordVectors.open(str(data / "vectors"))


def test_synsets_with_more_above_them_in_common_are_nearer(vectors: WordVectors) -> None:
    # The word vectors of these tests are random, so what is alike comes from the hierarchy.
    classes = label_vectors([DOG, CAT, TRUCK, BREAD], vectors, WordNet.load())
    points = Space.of(vectors, True, 512).project_labels(classes, vectors)[:, vectors.dimension :]
    cosines = unit(points) @ unit(points).T
    assert cosines[0, 1] > cosines[0, 2] + 0.2
    assert cosines[0, 1] > cosines[2, 3] + 0.2


def test_the_point_of_a_synset_is_its_formula_step_by_step(vectors: WordVectors) -> None:
    wordnet = WordNet.load()
    (above,) = wordnet.hypernyms("n00001930")  # physical entity, right below the root
    assert above == ROOT
    kinds, stack = 0.0, [("n00001930", 1.0)]
    while stack:
        wnid, share = stack.pop()
        kinds += share
        stack += [
            (hyponym, share / len(wordnet.hypernyms(hyponym))) for hyponym in wordnet.hyponyms(wnid)
        ]
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"n00001930").digest(8), np.uint8))
    place = np.sqrt(1 - np.log(kinds) / np.log(len(wordnet))) * (2.0 * bits - 1)
    classes = label_vectors(["n00001930"], vectors, wordnet)
    (point,) = Space(np.zeros(vectors.dimension, "f4"), SIZE).project_labels(classes, vectors)
    assert not classes.has_vector.any()
    assert not point.any()  # neither a word vector nor a point
    classes.vectors[0, 0] = 1
    (point,) = Space(np.zeros(vectors.dimension, "f4"), SIZE).project_labels(classes, vectors)
    np.testing.assert_allclose(point[-SIZE:], place / np.linalg.norm(place), atol=1e-3)


def test_a_point_does_not_depend_on_the_other_labels(vectors: WordVectors) -> None:
    space, wordnet = Space.of(vectors, True, SIZE), WordNet.load()
    labels = [*NOUNS, "other3"]
    together = space.project_labels(label_vectors(labels, vectors, wordnet), vectors)
    for row in (0, 7):
        classes = label_vectors([labels[row]], vectors, wordnet)
        np.testing.assert_array_equal(space.project_labels(classes, vectors)[0], together[row])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert not together[-1, vectors.dimension :].any()  # no synset


def test_a_model_with_hierarchy_is_trained_scored_and_searched_in_its_space(
    data: Path, tmp_path: Path, vectors: WordVectors, job: Job
) -> None:
    flags = train_flags(data, tmp_path / "model", "--hierarchy", SIZE, "--epochs", 30)
    code, _, error = job(train_devise.main, *flags, "--calibration.folds", 0)
    assert code == 0, error
    model = DeviseModel.open(str(tmp_path / "model"))
    assert model.dimension == vectors.dimension + SIZE == model.space.vectors.shape[1]
    places = ["--model", tmp_path / "model", "--features", data / "features"]
    code, result, error = job(evaluate_devise.main, *places, "--candidates", "wordnet")
    assert code == 0, error
    assert result["seen_hit@1"] > 0.5, result
    names = find_candidates("wordnet", model, vectors)
    at = {label: row for row, labels in enumerate(names.labels) for label in labels}
    row = model.space.labels.index(UNSEEN[0])
    np.testing.assert_array_equal(names.vectors[at[UNSEEN[0]]], model.space.vectors[row])
    word = model.project_words(vectors.vector("dog")[None])
    assert word.shape == (1, model.dimension)
    assert not word[0, vectors.dimension :].any()
