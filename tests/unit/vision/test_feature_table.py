"""Stored features: the same numbers in memory and mapped, decoded once, never half or altered."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from seqvis.errors import ArtifactError
from seqvis.storage import Location, locate
from seqvis.vision import feature_table
from seqvis.vision.feature_table import FeatureTable
from tests.support.pictures import write_features


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every table counts as large, and its files go here."""
    monkeypatch.setattr(feature_table, "MAPPED_BYTES", 0)
    monkeypatch.setattr(feature_table, "MOST_ROWS", 7)  # decoded at once
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def written(place: Path, seed: int = 0) -> np.ndarray:
    features = np.random.default_rng(seed).normal(size=(40, 24)).astype(np.float16)
    write_features(place, ["dog"] * 40, features)
    return features


@pytest.mark.parametrize("remote", [False, True])
def test_mapped_features_are_those_that_were_stored(mapped: Path, remote: bool) -> None:
    stored = written(mapped / "features")
    place = locate(mapped / "features")
    if remote:
        bucket = fs.SubTreeFileSystem(str(mapped), fs.LocalFileSystem())
        place = Location(bucket, "features", "s3://bucket/features")
    for _ in range(2):
        features = FeatureTable.open(place).features
        assert features.dtype == np.float16
        assert np.array_equal(features, stored)
        assert not features.flags.writeable
    assert len(list(mapped.rglob(feature_table.FLAT))) == 1


def test_other_features_at_the_same_place_are_not_mistaken_for_the_mapped_ones(
    mapped: Path,
) -> None:
    first = written(mapped / "features")
    earlier = FeatureTable.open(str(mapped / "features")).features
    second = written(mapped / "features", seed=1)
    assert np.array_equal(FeatureTable.open(str(mapped / "features")).features, second)
    assert np.array_equal(earlier, first), "who maps the earlier ones still has them"


def test_features_that_are_replaced_before_they_are_decoded_are_not_mapped(mapped: Path) -> None:
    written(mapped / "features")
    table = FeatureTable.open(str(mapped / "features"))
    written(mapped / "features", seed=1)
    with pytest.raises(
        ArtifactError, match="features: was replaced or deleted while it was in use"
    ):
        _ = table.features
    assert not list(mapped.rglob(feature_table.FLAT))


def test_features_that_are_not_finite_are_never_mapped(mapped: Path) -> None:
    features = np.zeros((40, 24), np.float16)
    features[30, 5] = np.inf
    write_features(mapped / "features", ["dog"] * 40, features)
    with pytest.raises(ArtifactError, match=r"the features of 000030\.jpg are not finite"):
        _ = FeatureTable.open(str(mapped / "features")).features
    assert not list(mapped.rglob(feature_table.FLAT))
