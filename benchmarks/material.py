"""What the benchmarks work on: texts, pictures, and a corpus and a translator made once and kept.

With `--data` the texts are Multi30k, without it questions from the grammar that `make demo` learns
from. The translator is trained just long enough that its sentences end where they should: lengths
decide how long translating takes, quality does not.
"""

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seqvis import artifacts
from seqvis.config import read_yaml
from seqvis.samples.questions import write_sample
from seqvis.training.workers import Workers
from seqvis.translation import batches
from seqvis.translation.task import LossSettings, TrainSettings, TranslationTask

PRESET = Path("jobs/presets/multi30k-fr-en.yaml")
SEED = 42


@dataclass(frozen=True)
class Material:
    """Paths of what is given, and of what is made of it below `work`."""

    work: Path
    data: Path | None
    pairs: int = 10_000

    @cached_property
    def texts(self) -> dict[str, Path]:
        """Files of sentences: train.fr, train.en, valid.fr, valid.en."""
        names = {"train": "train", "valid": "val" if self.data else "heldout"}
        folder = self.data / "multi30k" if self.data else self.work / "questions"
        if not self.data and not folder.exists():
            write_sample(folder, self.pairs)
        return {
            f"{part}.{language}": folder / f"{name}.{language}"
            for part, name in names.items()
            for language in ("fr", "en")
        }

    def lines(self, name: str) -> list[str]:
        return self.texts[name].read_text(encoding="utf-8").splitlines()

    @cached_property
    def corpus(self) -> artifacts.Artifact:
        out = self.work / "corpus"
        if not out.exists():
            texts = self.texts
            run_job(
                "prepare_corpus", "--source", texts["train.fr"], "--target", texts["train.en"],
                "--valid-source", texts["valid.fr"], "--valid-target", texts["valid.en"],
                "--source-lang", "fr", "--target-lang", "en", "--max-target-length", 0,
                "--no-case-token", "--unknown-share", 0, "--uncased-share", 0,
                "--source-percentile", 100, "--target-percentile", 100, "--out", out,
            )  # fmt: skip
        return artifacts.load(str(out), "corpus")

    @cached_property
    def translator(self) -> str:
        out = self.work / "translator"
        if not out.exists():
            run_job(
                "train_translator", "--config", PRESET, "--corpus", self.work / "corpus",
                "--epochs", 1, "--num-workers", 2, "--out", out,
            )  # fmt: skip
        return str(out)

    def task(self, variant: str, plain_seed: bool = False) -> TranslationTask:
        """Training as the preset says, or, with `plain_seed`, with the lesson's settings."""
        given = preset()
        chosen = TrainSettings(corpus="", out="") if plain_seed else given
        resolved = chosen.model_copy(update={"variant": variant}).resolved()
        changes = {
            "corpus": self.corpus.location.uri,
            "batches": given.batches,
            "loss": LossSettings(count_padding=True) if plain_seed else given.loss,
            "fit": given.fit.model_copy(update={"seed": SEED}),
        }
        return TranslationTask(resolved.model_copy(update=changes))


def preset() -> TrainSettings:
    return TrainSettings.model_validate(read_yaml(str(PRESET)) | {"corpus": "", "out": ""})


def forever(task: TranslationTask, workers: Workers | None = None) -> Iterator[batches.Batch]:
    """The training batches of one epoch after the other, or this worker's share of them."""
    epoch = 0
    while True:
        yield from task.batches(epoch, 0, workers or Workers())
        epoch += 1


def photograph(seed: int) -> bytes:
    """A JPEG of 500 x 375 with edges and texture, about as large as ImageNet's."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = draw.normal(0, 20, smooth.shape).astype(np.int16)
    stream = io.BytesIO()
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def write_files(folder: Path, contents: Iterable[bytes]) -> None:
    """Write pictures as 00000.jpg and so on."""
    folder.mkdir(parents=True)
    for number, content in enumerate(contents):
        (folder / f"{number:05d}.jpg").write_bytes(content)


def write_pairs(folder: Path, name: str, pairs: Iterable[tuple[str, str]]) -> tuple[Path, Path]:
    """Write aligned sentences as NAME.fr and NAME.en."""
    paths = (folder / f"{name}.fr", folder / f"{name}.en")
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
    return paths


def run_job(name: str, *flags: object) -> dict[str, Any]:
    """Run a job and return the last line that it prints, which is JSON."""
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, flags)]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
