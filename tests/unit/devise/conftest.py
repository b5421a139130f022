"""Pictures of 20 labels and heads trained on them, which no test changes."""

from pathlib import Path

import pytest

from jobs import train_devise
from tests.support.devise import make_data, train_flags


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("devise"))


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head was trained for an epoch, without a bonus for unseen labels."""
    return train(data, tmp_path_factory, "--epochs", 1, "--calibration.folds", 0)


@pytest.fixture(scope="session")
def calibrated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a bonus for unseen labels, chosen on the labels of two folds."""
    flags = ["--epochs", 4, "--calibration.at", 1, "--calibration.folds", 2]
    return train(data, tmp_path_factory, *flags)


def train(data: Path, tmp_path_factory: pytest.TempPathFactory, *flags: object) -> Path:
    out = tmp_path_factory.mktemp("head") / "model"
    assert train_devise.main([str(flag) for flag in train_flags(data, out, *flags)]) == 0
    return out
