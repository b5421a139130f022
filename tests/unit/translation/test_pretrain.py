"""Language models that translators start from, through the job's main."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs import pretrain as job_of
from seqvis.samples.questions import generate_pairs
from seqvis.text.vocabulary import EOS
from seqvis.training.workers import Workers
from seqvis.translation import pretrain
from seqvis.translation.batches import make_batch
from seqvis.translation.pretrain import LanguageTask, PretrainSettings
from seqvis.translation.task import TrainSettings, TranslationTask
from tests.support.corpora import write_corpus
from tests.unit.conftest import SMALL, Job

SIZES = ("--model.embedding-size", 32, "--model.hidden-size", 24, "--batches.size", 64)
QUICK = (*SIZES, "--num-workers", 0, "--fit.precision", "float32", "--epochs", 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = generate_pairs(430, seed=3)
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus", pairs[30:], pairs[:30])


def flags(corpus: Path, out: Path, side: str, *more: object) -> list[object]:
    return ["--corpus", corpus, "--out", out, "--side", side, *QUICK, *more]


@pytest.mark.parametrize("side", ["source", "target"])
def test_it_learns_and_a_translator_starts_from_it(
    corpus: Path, tmp_path: Path, job: Job, side: str
) -> None:
    out, part = tmp_path / "model", "encoder" if side == "source" else "decoder"
    more = ["--epochs", 4, "--optimizer.learning-rate", 0.02, "--model.embedding-deviation", 0.1]
    code, result, error = job(job_of.main, *flags(corpus, out, side, *more))
    assert code == 0, error
    vocabulary = len((corpus / f"{side}.vocab").read_text().splitlines())
    assert result["perplexity"] < vocabulary / 3
    stored = load_file(out / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {part}
    given: Any = {f"init_{part}": str(out)}
    task = TranslationTask(
        TrainSettings(corpus=str(corpus), out=str(tmp_path / "x"), **SMALL, **given).resolved()
    )
    begun = dict(task.build_model().named_parameters())
    assert all(torch.equal(begun[name], tensor) for name, tensor in stored.items())
    (note,) = task.begins_at_random()
    left = [name for name in begun if name.startswith(f"{part}.") and name not in stored]
    assert left
    assert all(name.startswith(("encoder.bridges", "decoder.attention", "decoder.mix_context"))
               for name in left)  # fmt: skip
    assert note.startswith(
        f"--init-{part}: lacks these weights, so they begin at random: {left[0]}"
    )


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(
    corpus: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    text = tmp_path / "text.txt"
    lines = [pair[side == "target"] for pair in generate_pairs(300, seed=9)]
    text.write_text("\n".join([*lines[:100], "", *lines[100:]]) + "\n")
    more = ["--text", text, "--fit.checkpoint-minutes", 0.0001]
    assert job(job_of.main, *flags(corpus, tmp_path / "whole", side, *more))[0] == 0
    batches = 0
    original = LanguageTask.loss

    def loss(self: LanguageTask, *arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 7:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(LanguageTask, "loss", loss)
    assert job(job_of.main, *flags(corpus, tmp_path / "parts", side, *more))[0] == 130
    code, _, error = job(job_of.main, *flags(corpus, tmp_path / "parts", side, *more))
    assert (code, "going on from" in error) == (0, True)
    names = ("whole", "parts")
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in names)
    assert whole == parts
    text.write_text("\n".join(lines[:200]))
    code, _, error = job(job_of.main, *flags(corpus, tmp_path / "parts", side, *more))
    assert (code, "is a checkpoint of another" in error) == (2, True)


def test_a_decoder_that_writes_from_right_to_left_learns_so(
    corpus: Path, tmp_path: Path, job: Job
) -> None:
    out, backwards = tmp_path / "model", ("--direction", "right-to-left")
    code, _, error = job(job_of.main, *flags(corpus, out, "target", *backwards, "--epochs", 1))
    assert code == 0, error
    given = {"corpus": str(corpus), "out": "x", "side": "target"}
    plain, reversed_ = (
        next(LanguageTask(PretrainSettings.model_validate(given | more).resolved()).batches(
            0, 0, Workers()
        )).source.ids.tolist()
        for more in ({}, {"direction": "right-to-left"})
    )  # fmt: skip
    for ours, theirs in zip(reversed_, plain, strict=True):
        end = ours.index(EOS)
        assert ours == [*theirs[:end][::-1], *theirs[end:]]
    for direction in ("left-to-right", "right-to-left"):
        settings = TrainSettings(
            corpus=str(corpus), out="x", init_decoder=str(out), **SMALL, direction=direction
        )
        notes = TranslationTask(settings.resolved()).begins_at_random()
        assert any("has to learn the order anew" in note for note in notes) is (
            direction == "left-to-right"
        )
    code, _, error = job(job_of.main, *flags(corpus, out, "source", *backwards))
    assert (code, "--direction: is of the target's words" in error) == (2, True)


def task(corpus: Path, text: Path, side: str, **options: Any) -> LanguageTask:
    given = {"corpus": str(corpus), "out": "x", "side": side, "text": str(text), **options}
    return LanguageTask(PretrainSettings.model_validate(given).resolved())


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_file_is_numbered_as_the_corpus_is(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    monkeypatch.setattr(pretrain, "_AT_ONCE", 7)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    own = TranslationTask(TrainSettings(corpus=str(corpus), out="x").resolved()).valid
    texts = own.source_texts if side == "source" else own.target_texts
    assert texts is not None
    file = tmp_path / "text.txt"
    file.write_text("\n".join([texts[0], "   ", *texts[1:]]) + "\n")
    read = task(corpus, file, side).train.source
    wanted = own.source if side == "source" else own.target
    assert [read[row].tolist() for row in range(len(texts))] == [
        wanted[row].tolist() for row in range(len(texts))
    ]
    cut = task(corpus, file, side, longest=4).train.source
    assert max(cut.lengths) == 4
    assert {int(cut[row][-1]) for row in range(len(texts))} == {2}


def test_text_that_cannot_be_used_is_one_clear_error(
    corpus: Path, tmp_path: Path, job: Job
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n \n")
    for content, message in ((b"\n \n", "holds no sentence"), (b"PK\x03\x04" * 9, "zip archive"),
                             (b"ab\xff\xfe\n" * 5, "UTF-8")):  # fmt: skip
        text.write_bytes(content)
        code, _, error = job(job_of.main, *flags(corpus, tmp_path / "o", "source", "--text", text))
        assert (code != 0, message in error) == (True, True), error
        assert not (tmp_path / "o.run").exists()
    absent = tmp_path / "absent.txt"
    code, _, error = job(job_of.main, *flags(corpus, tmp_path / "o", "source", "--text", absent))
    assert (code != 0, "absent.txt: no such file" in error) == (True, True)


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_losses_of_two_workers_are_together_that_of_one(corpus: Path, side: str) -> None:
    """Also of a batch of one sentence, of which the second worker has none."""
    given = {"corpus": str(corpus), "out": "x", "side": side, **SMALL}
    given.pop("samples")
    task = LanguageTask(PretrainSettings.model_validate(given).resolved())
    model = task.build_model().eval()
    for rows in (np.array([3]), np.array([0, 1, 2, 3, 4])):
        whole = task.loss(model, make_batch(task.train, rows), 0.0)
        parts = [task.loss(model, make_batch(task.train, rows, rank, 2), 0.0) for rank in (0, 1)]
        mean = sum(part.loss for part in parts) / 2
        torch.testing.assert_close(mean, whole.loss)
        torch.testing.assert_close(sum(part.total for part in parts), whole.total)
        words = task.train.source.lengths_of(rows) - (side == "source")
        assert sum(part.tokens for part in parts) == whole.tokens == words.sum()
        assert all(part.loss.requires_grad for part in parts)
