"""train_devise and build_index as a program calls them, on features that are there."""

from pathlib import Path

import pytest

from seqvis import DeviseModel, build_index, build_vectors, train_devise
from seqvis.errors import ArtifactError, ConfigError
from seqvis.vectors.store import WordVectors
from seqvis.vision.feature_table import FeatureTable
from tests.support.pictures import word_vectors, write_vec_file
from tests.support.searching import NAMES, World


def test_features_and_words_become_a_model_and_a_search(world: World, tmp_path: Path) -> None:
    table, words = FeatureTable.open(world.features), WordVectors.open(world.vectors)
    model = train_devise(
        table, words, tmp_path / "m", epochs=30, batch_size=16, head={"hidden": 256, "dropout": 0.2}
    )
    assert isinstance(model, DeviseModel)
    assert model.artifact.config["features"] == str(world.features)
    for features in (table, world.features):
        with build_index(model, features, tmp_path / "c", backend="exact") as search:
            assert len(search.collection) == len(world.pictures)
            names = [match.metadata["name"] for match in search.text("boat", k=6)]
            assert names.count("boat") >= 5
            assert search.image(world.pictures[search.text("cat")[0].id], k=1)


def test_published_vectors_become_a_store(tmp_path: Path) -> None:
    file = write_vec_file(tmp_path / "words.vec", word_vectors([*NAMES.values()]))
    store = build_vectors(file, tmp_path / "v", format="vec", max_words=4)
    assert [name in store for name in NAMES.values()] == [True] * 4 + [False] * 2


def test_a_wrong_setting_is_named_with_its_value(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^train_devise: method: .* \(given: 'best'\)"):
        train_devise(world.features, world.vectors, tmp_path / "m", method="best")
    with pytest.raises(ConfigError, match=r"^build_index: .*: no such key"):
        build_index(world.model, world.features, tmp_path / "c", m=3)
    with pytest.raises(TypeError, match="not int: 5"):
        train_devise(5, world.vectors, tmp_path / "m")
    with pytest.raises(TypeError, match="not int: 5"):
        train_devise(world.features, 5, tmp_path / "m")
    with pytest.raises(ArtifactError, match="is a vectors, but a features is needed"):
        train_devise(world.vectors, world.vectors, tmp_path / "m")
    assert not list(tmp_path.iterdir())
