"""Training a head on two Ray workers."""

import json
from pathlib import Path

import pytest

from jobs import train_devise
from tests.support.devise import make_data, train_flags


def test_two_ray_workers_train_together(
    tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path)
    more = ["--epochs", 10, "--calibration.folds", 0, "--num-workers", 2, "--cpus-per-worker", 1]
    code = train_devise.main([str(flag) for flag in train_flags(data, tmp_path / "model", *more)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert json.loads(printed.out.splitlines()[-1])["hit@5"] > 0.8
