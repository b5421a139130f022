"""What a user gave is checked before Ray is started, which takes ten seconds."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from jobs import embed_images, prepare_corpus, train_devise, train_translator
from seqvis.samples.drawings import TABLE
from serve import app
from tests.support.searching import World
from tune import devise, translator

Main = Callable[[Sequence[str]], int]

PREPARE = ["--source-lang", "fr", "--target-lang", "en"]
LITE = ["--backbone", "efficientnet_lite0", "--image-size", "64"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gains an entry when a Ray would be started; none is."""
    entries: list[str] = []

    def start(*_: object, **__: object) -> nullcontext[None]:
        entries.append("Ray")
        raise AssertionError("Ray was started")

    monkeypatch.setattr(app, "ray_session", start)
    monkeypatch.setattr("seqvis.cluster.ray_session", start)
    return entries


@pytest.fixture
def folder(tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some of what jobs take is there; a corpus is too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fr").write_text("un deux\n" * 30, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "corpus").symlink_to(questions)
    (tmp_path / TABLE).write_text("path\na.png\n", encoding="utf-8")
    (tmp_path / "picture").mkdir()
    (tmp_path / "picture" / "x.png").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("main", "flags", "named"),
    [
        (prepare_corpus.main, ["--source", "no.fr", "--target", "fr", *PREPARE], "no.fr"),
        (prepare_corpus.main, ["--source", "fr", "--target", "no.en", *PREPARE], "no.en"),
        (prepare_corpus.main, ["--source", "fr", "--target", "folder", *PREPARE], "folder"),
        (
            prepare_corpus.main,
            [
                *("--source", "fr", "--target", "fr", "--valid-source", "fr"),
                *("--valid-target", "no.valid"),
                *PREPARE,
            ],
            "no.valid",
        ),
        (embed_images.main, ["--images", "no-images", *LITE], "no-images"),
        (embed_images.main, ["--images", "folder", *LITE], "folder"),
        (embed_images.main, ["--images", TABLE, *LITE], TABLE),
        (embed_images.main, ["--images", "picture", "--weights", "no.bin", *LITE], "no.bin"),
        (train_translator.main, ["--corpus", "no-corpus"], "no-corpus"),
        (train_translator.main, ["--corpus", "folder"], "folder"),
        (train_translator.main, ["--corpus", "corpus", "--vectors-source", "no-v"], "no-v"),
        (train_translator.main, ["--corpus", "corpus", "--vectors-target", "folder"], "folder"),
        (
            train_devise.main,
            ["--features", "no-features", "--vectors", "v", "--num-workers", "1"],
            "no-features",
        ),
        (translator.main, ["--corpus", "no-corpus", "--space", "s.yaml"], "no-corpus"),
        (translator.main, ["--corpus", "corpus", "--space", "no.yaml"], "no.yaml"),
        (
            translator.main,
            ["--corpus", "corpus", "--space", "s.yaml", "--vectors-target", "no-v"],
            "no-v",
        ),
        (
            translator.main,
            ["--corpus", "corpus", "--space", "s.yaml", "--init", "no-model"],
            "no-model",
        ),
        (
            translator.main,
            ["--corpus", "corpus", "--space", "s.yaml", "--init-encoder", "folder"],
            "folder",
        ),
        (
            devise.main,
            ["--features", "no-features", "--vectors", "v", "--space", "s.yaml"],
            "no-features",
        ),
    ],
)
def test_missing_input_is_named_before_ray_starts(
    main: Main, flags: list[str], named: str, folder: Path, started: list[str], capsys
) -> None:
    assert main([*flags, "--out", "out"]) in (1, 2)
    error = capsys.readouterr().err
    assert named in error
    assert error.count("error: ") >= 1
    assert not started
    assert not (folder / "out.run" / "ray").exists()


def test_a_search_names_a_missing_head_before_ray_starts(
    world: World, started: list[str], capsys, tmp_path: Path
) -> None:
    flags = ["--features", str(world.features), "--vectors", str(world.vectors)]
    flags += ["--space", "s.yaml", "--init", "no-head", "--out", str(tmp_path / "out")]
    assert devise.main(flags) == 1
    assert "no-head: no such devise" in capsys.readouterr().err
    assert not started


@pytest.mark.parametrize("flag", ["--translator", "--collection"])
@pytest.mark.parametrize("path", ["nothing", "folder"])
def test_a_server_names_a_missing_model_before_ray_starts(
    flag: str, path: str, folder: Path, started: list[str], capsys
) -> None:
    assert app.main([flag, path, "--port", "58731"]) == 1
    assert path in capsys.readouterr().err
    assert not started


def test_ray_starts_once_the_inputs_are_checked(folder: Path, started: list[str]) -> None:
    with pytest.raises(AssertionError, match="Ray was started"):
        train_translator.main(["--corpus", "corpus", "--out", "out"])
    assert started == ["Ray"]
