"""What a GPU does with the core of seqvis, on a machine with PyTorch and little else.

    python -m benchmarks.gpu_pack gpu         # here: code and packages for this Python, in a folder
    cd gpu && tar xf seqvis.tar.xz            # there, where neither Ray nor a network is needed
    python -m benchmarks.gpu --out results    # results.md and results.json, in under 8 minutes

It trains `all` on 45,000 generated questions with vocabularies of the lesson's size, compares
losses with the CPU's, translates 1,000 sentences, embeds 2,000 pictures with torchvision's
ResNet-50 (random weights), and searches a million vectors exactly. The lesson's loop runs beside
it. A stage that fails is reported, and does not stop the others.
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_questions import SMALL, Questions, Scale, questions
from benchmarks.peers import LessonModel, LessonTraining
from seqvis.collection.index import DeviceRows, best_of, exact_candidates
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.decoding.search import search_many
from seqvis.graphs import SWITCH
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import DropoutSettings
from seqvis.seq2seq.state import pad_ids
from seqvis.text.vocabulary import BOS
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import StepLoss, TrainingStep
from seqvis.training.workers import Workers
from seqvis.translation.batches import Batch
from seqvis.translation.task import TrainSettings, TranslationTask

CPU = torch.device("cpu")
HEADINGS = ("stage", "side", "a second", "times", "check")


@dataclass(frozen=True)
class Row:
    """A measured side; the first of a stage is the one that the others are compared with."""

    stage: str
    side: str
    rate: float
    unit: str
    check: str = ""


class Bench:
    """The stages, on one device."""

    def __init__(self, device: torch.device, scale: Scale):
        self.device, self.scale = device, scale
        self.table, self.sources = questions(scale)
        self.trained: Seq2Seq | None = None

    def task(self, variant: str = "all", dropout: bool = True) -> Questions:
        model = self.scale.model
        if not dropout:
            rates = DropoutSettings(input=0, encoder=0, bridge=0, decoder=0, output=0)
            model = model.model_copy(update={"dropout": rates})
        settings = TrainSettings.model_validate(
            {"corpus": "", "out": "", "variant": variant, "batches": {"size": self.scale.batch}}
        )
        resolved = settings.model_copy(update={"model": model}).resolved()
        return Questions(resolved, self.table, self.scale.words)

    def training(self) -> Iterator[Row]:
        stage, unit = "training, an epoch", "target words"
        task = self.task("attn")
        lesson = self.lesson(task)
        batches = list(islice(_batches(task, self.device), 100))
        work = _each(lesson.step, batches[1:])
        lesson.step(batches[0])
        words = sum(batch.target_words for batch in batches[1:])
        yield Row(stage, "the lesson's loop (attn), float32", words / self.timed(work), unit)
        expected = self.first_losses(CPU, "float32", False)
        for precision, graphs in self.kinds():
            losses = self.first_losses(self.device, precision, graphs)
            apart = max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True))
            tolerance = 2e-3 if precision == "float32" else 3e-2
            words, seconds, loss = self.epoch(precision, graphs)
            check = f"{seconds:.2f} s an epoch, loss {loss:.3f}; first losses {apart:.1e} from "
            side = f"seqvis (all), {precision}{', CUDA graphs' if graphs else ''}"
            yield Row(
                stage, side, words / seconds, unit, f"{check}the CPU's{_mark(apart, tolerance)}"
            )

    def kinds(self) -> Iterator[tuple[str, bool]]:
        yield "float32", False
        if self.device.type == "cuda":
            yield "float32", True
            yield "bfloat16", False
            yield "bfloat16", True

    def lesson(self, task: Questions) -> LessonTraining:
        model = task.build_model()
        assert isinstance(model, Seq2Seq)
        lesson = LessonTraining(model, forced=True)
        lesson.model.to(self.device)  # in place: its optimiser keeps the parameters
        return lesson

    def first_losses(self, device: torch.device, precision: str, graphs: bool) -> list[float]:
        """Return the losses of the first steps without dropout, each batch three times in a row: so
        graphs are recorded and replayed."""
        os.environ[SWITCH] = str(int(graphs))
        task = self.task(dropout=False)
        training = _training(task, device, precision)
        losses = []
        for number, batch in enumerate(islice(_batches(task, device), self.scale.checked)):
            for again in range(3):
                loss = training.step(batch, 3 * number + again, 0.0, 1e-3, 0.9)
                losses.append(float(loss.total) / loss.tokens)
        return losses

    def epoch(self, precision: str, graphs: bool) -> tuple[int, float, float]:
        """Train for two epochs; return the second's words and seconds, and the mean loss of its
        last tenth. In the first, libraries choose their algorithms and graphs are recorded."""
        os.environ[SWITCH] = str(int(graphs))
        task = self.task()
        training = _training(task, self.device, precision)
        steps: list[StepLoss] = []

        def work(epoch: int) -> None:
            steps.clear()
            for number, batch in enumerate(task.batches(epoch, 0, training.workers)):
                steps.append(training.step(batch, number, 0.0, 3e-3, 0.8))

        work(0)
        seconds = self.timed(partial(work, 1))
        last = steps[-max(1, len(steps) // 10) :]
        loss = sum(float(step.total) for step in last) / sum(step.tokens for step in last)
        assert isinstance(training.model, Seq2Seq)
        self.trained = training.model.eval()
        return sum(step.tokens for step in steps), seconds, loss

    def decoding(self) -> Iterator[Row]:
        assert self.trained is not None, "training failed"
        plain = self.task("attn").build_model()
        assert isinstance(plain, Seq2Seq)
        lesson = LessonModel(plain).to(self.device).eval()
        on_cpu = Seq2Seq(self.trained.settings, *self.scale.words).eval()
        on_cpu.load_state_dict(self.trained.state_dict())
        for beam in (1, 5):
            stage = "greedy search" if beam == 1 else f"beam {beam}"
            expected = self.translate(PackedSeq2Seq(on_cpu), beam)
            if beam == 1:
                steps = max(map(len, expected)) + 1
                seconds = self.timed(partial(self.lesson_translates, lesson, steps))
                rate = len(self.sources) / seconds
                yield Row(stage, "the lesson's loop (attn), float32", rate, "sentences")
            for precision, graphs in self.kinds():
                os.environ[SWITCH] = str(int(graphs))
                packed = PackedSeq2Seq(self.trained, precision)  # type: ignore[arg-type]
                translations = self.translate(packed, beam)
                seconds = self.timed(partial(self.translate, packed, beam))
                others = sum(a != b for a, b in zip(translations, expected, strict=True))
                side = f"seqvis (all), {precision}{', CUDA graphs' if graphs else ''}"
                most = len(expected) * (0.002 if precision == "float32" else 0.05)
                check = f"{others} texts other than the CPU's{_mark(others, most)}"
                yield Row(stage, side, len(translations) / seconds, "sentences", check)

    def translate(self, packed: PackedSeq2Seq, beam: int) -> list[list[int]]:
        settings = DecodingSettings(beam=beam)
        translations = search_many(packed, self.sources, settings, 500 if beam == 1 else 100)
        return [hypotheses[0].ids for hypotheses in translations]

    @torch.no_grad()
    def lesson_translates(self, lesson: LessonModel, steps: int) -> None:
        """Feed the loop its own words, in batches of 200; it does not look for ends."""
        for begin in range(0, len(self.sources), 200):
            ids, _ = pad_ids(self.sources[begin : begin + 200])
            target = torch.full((steps, len(ids)), BOS, device=self.device)
            lesson(ids.t().to(self.device), target, False).argmax(2).tolist()

    def embedding(self) -> Iterator[Row]:
        from torchvision.models import resnet50

        from seqvis.vision.backbones import Backbone, FeatureExtractor

        network = resnet50(weights=None)
        network.fc = nn.Identity()
        extractor = FeatureExtractor(network, [124.0] * 3, [58.0] * 3)
        backbone = Backbone(extractor, None, 2048, {"name": "resnet50"})
        few = np.random.default_rng(0).integers(
            0,
            256,
            (min(256, self.scale.pictures), self.scale.pixels, self.scale.pixels, 3),
            np.uint8,
        )
        pictures = np.resize(few, (self.scale.pictures, *few.shape[1:]))
        expected = backbone.embed(few[:8]).features
        backbone.to(self.device)

        def as_it_comes() -> None:
            with torch.inference_mode():
                for part in torch.from_numpy(pictures).split(256):
                    extractor(part.to(self.device).permute(0, 3, 1, 2)).cpu()

        as_it_comes()
        seconds = self.timed(as_it_comes)
        yield Row("ResNet-50", "as it comes, float32", len(pictures) / seconds, "pictures")
        features = backbone.embed(few[:8]).features
        apart = float(np.abs(features - expected).max() / np.abs(expected).max())
        seconds = self.timed(lambda: backbone.embed(pictures))
        check = f"features {apart:.1e} from the CPU's{_mark(apart, 0.05)}"
        yield Row("ResNet-50", "seqvis", len(pictures) / seconds, "pictures", check)

    def neighbours(self) -> Iterator[Row]:
        draw, scale = np.random.default_rng(2), self.scale
        vectors = draw.standard_normal((scale.vectors, scale.dimension), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = vectors[: scale.queries] + 0.1 * vectors[-scale.queries :]
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        few = queries[:20]

        def best(candidates: list[np.ndarray], wanted: np.ndarray) -> list[list[int]]:
            pairs = zip(candidates, wanted, strict=True)
            return [best_of(vectors, rows, query, 10)[0].tolist() for rows, query in pairs]

        began = time.perf_counter()
        expected = best(exact_candidates(vectors, few, 10), few)
        rate = len(few) / (time.perf_counter() - began)
        stage = f"exact search, {scale.vectors:,} of {scale.dimension}"
        yield Row(stage, "seqvis, CPU", rate, "queries")
        rows = DeviceRows(vectors, str(self.device))
        same = best(rows.candidates(few, 10), few) == expected
        seconds = self.timed(lambda: best(rows.candidates(queries, 10), queries))
        check = "the same as the CPU's" if same else "others than the CPU's !"
        yield Row(stage, "seqvis, device", len(queries) / seconds, "queries", check)

    def timed(self, work: Callable[[], Any]) -> float:
        """Return the seconds that work takes, until the device has done it."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _training(task: Questions, device: torch.device, precision: str) -> TrainingStep[Batch]:
    return TrainingStep(task, OptimizerSettings(), precision, 1, Workers(device=device))


def _batches(task: TranslationTask, device: torch.device) -> Iterator[Batch]:
    return task.batches(0, 0, Workers(device=device))


def _each(step: Callable[[Batch], object], batches: Sequence[Batch]) -> Callable[[], None]:
    def work() -> None:
        for batch in batches:
            step(batch)

    return work


def _mark(value: float, most: float) -> str:
    return "" if value <= most else f" ! (at most {most:g})"


def write(out: Path, device: str, rows: Sequence[Row], failed: dict[str, str]) -> None:
    """Write the table and all figures; called after each stage, so that none is lost."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    firsts: dict[str, float] = {}
    for row in rows:
        first = firsts.setdefault(row.stage, row.rate)
        rate = f"{row.rate:,.0f} {row.unit}"
        lines.append((row.stage, row.side, rate, f"{row.rate / first:.2f}", row.check))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    failures = "".join(f"\n{stage} failed:\n\n```\n{text}```\n" for stage, text in failed.items())
    out.with_suffix(".md").write_text(f"{device}\n\n{table}{failures}", encoding="utf-8")
    content = {"device": device, "rows": [vars(row) for row in rows], "failed": failed}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="OUT.md and OUT.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a little of everything, as a test")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    name = f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    name = f"{name}, PyTorch {torch.__version__}"
    bench = Bench(device, SMALL if given.small else Scale())
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for stage in (bench.training, bench.decoding, bench.embedding, bench.neighbours):
        began = time.perf_counter()
        try:
            for row in stage():
                rows.append(row)
                print(
                    f"{row.stage}, {row.side}: {row.rate:,.0f} {row.unit}/s {row.check}", flush=True
                )
        except Exception:
            failed[stage.__name__] = traceback.format_exc()
            print(failed[stage.__name__], file=sys.stderr)
        print(f"{stage.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        write(given.out, name, rows, failed)
    return int(bool(failed) or any("!" in row.check for row in rows))


if __name__ == "__main__":
    sys.exit(main())
