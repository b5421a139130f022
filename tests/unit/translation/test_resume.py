"""Trainings that are cut off in the middle end with the weights of those that are not."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.train_translator import main
from seqvis.samples.questions import generate_pairs
from seqvis.translation.task import TranslationTask
from tests.support.corpora import write_corpus
from tests.unit.conftest import Job

SMALL = (
    "--epochs", 2, "--model.embedding-size", 32, "--model.hidden-size", 24, "--batches.size", 64,
    "--samples", 0, "--num-workers", 0, "--fit.precision", "float32",
    "--fit.checkpoint-minutes", 1e-9,
)  # fmt: skip
AVERAGED = ("--fit.moving-average", 0.9, "--fit.average", 2)
THAWED = ("--thaw.epochs", 0.4, "--thaw.rate-factor", 0.38)
BACKWARDS = (
    "--direction", "right-to-left", "--loss.sampled-words", 60, "--optimizer.algorithm", "sgd",
    "--model.attention-activation", "relu",
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = generate_pairs(230, seed=3)
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", pairs[30:], pairs[:30])


def flags(corpus: Path, out: Path, *more: object) -> list[object]:
    return ["--corpus", corpus, "--out", out, *SMALL, *more]


def cut(job: Job, flags: list[object], after: int) -> None:
    """Interrupt the training after so many steps."""
    original, batches = TranslationTask.loss, 0

    def loss(self: TranslationTask, *arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches > after:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TranslationTask, "loss", loss)
        assert job(main, *flags)[0] == 130


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = ((out / "model.safetensors").read_bytes() for out in (one, other))
    return ours == theirs


def test_backwards_by_gradient_descent_on_sampled_words(
    corpus: Path, tmp_path: Path, job: Job
) -> None:
    whole, parts = (flags(corpus, tmp_path / name, *BACKWARDS) for name in ("whole", "parts"))
    assert job(main, *whole)[0] == 0
    cut(job, parts, 5)  # in the second epoch
    code, _, error = job(main, *parts)
    assert (code, "going on from" in error) == (0, True), error
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_from_another_model_that_is_gone_with_averaged_weights(
    corpus: Path, tmp_path: Path, job: Job
) -> None:
    donor, parts = tmp_path / "donor", tmp_path / "parts"
    assert job(main, *flags(corpus, donor))[0] == 0
    more = ["--init", donor, *THAWED, *AVERAGED]
    assert job(main, *flags(corpus, tmp_path / "whole", *more))[0] == 0
    cut(job, flags(corpus, parts, *more), 1)  # while lower layers are frozen
    other = tmp_path / "other"
    assert job(main, *flags(corpus, other, "--fit.seed", "5"))[0] == 0
    code, _, error = job(main, *flags(corpus, parts, "--init", other, *THAWED, *AVERAGED))
    assert code == 2
    assert re.search(r"\(init was 'given \(\w{8}\)', is 'given \(\w{8}\)'\); give --rest", error)
    shutil.rmtree(donor)
    for fewer, refusal in (
        (AVERAGED, "', is 'not given'; thaw.epochs was 0.4, is 0.0;"),
        (("--init", donor, *AVERAGED), "give --fit.allow-changes to go on with these"),
    ):
        code, _, error = job(main, *flags(corpus, parts, *fewer))
        assert (code, refusal in error) == (2, True), error
    cut(job, flags(corpus, parts, *more), 3)
    code, _, error = job(main, *flags(corpus, parts, *more))
    assert (code, "going on from" in error) == (0, True), error
    assert same_weights(tmp_path / "whole", parts)
    code, _, error = job(main, *flags(corpus, parts, *more, "--restart"))
    assert (code, "donor: no such translator" in error) == (1, True), error
