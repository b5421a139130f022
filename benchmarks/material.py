"""What the benchmarks work on: texts, pictures, and a corpus and a translator made once and kept.

With `--data` the texts are Multi30k, without it questions from the grammar that `make demo` learns
from. The translator is trained just long enough that its sentences end where they should: lengths
decide how long translating takes, quality does not.
"""

import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seqvis import artifacts
from seqvis.config import read_yaml
from seqvis.samples.questions import write_sample
from seqvis.training.workers import Workers
from seqvis.translation import batches
from seqvis.translation.task import LossSettings, TrainSettings, TranslationTask
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vision import feature_table
from seqvis.vision.feature_writer import GROUP_ROWS, PART_GROUPS, result_schema

PRESET = Path("jobs/presets/multi30k-fr-en.yaml")
SEED = 42
FEATURES, LABELS, DIMENSION = 2048, 1000, 300  # of ImageNet's form


@dataclass(frozen=True)
class Material:
    """Paths of what is given, and of what is made of it below `work`."""

    work: Path
    data: Path | None
    pairs: int = 10_000

    @cached_property
    def texts(self) -> dict[str, Path]:
        """Return the files of sentences: train.fr, train.en, valid.fr, valid.en."""
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

    def task(self, variant: str, of_lesson: bool = False) -> TranslationTask:
        """Return the training of the preset or, with `of_lesson`, of the lesson's settings."""
        given = preset()
        chosen = TrainSettings(corpus="", out="") if of_lesson else given
        resolved = chosen.model_copy(update={"variant": variant}).resolved()
        changes = {
            "corpus": self.corpus.location.uri,
            "batches": given.batches,
            "loss": LossSettings(count_padding=True) if of_lesson else given.loss,
            "fit": given.fit.model_copy(update={"seed": SEED}),
        }
        return TranslationTask(resolved.model_copy(update=changes))


def preset() -> TrainSettings:
    return TrainSettings.model_validate(read_yaml(str(PRESET)) | {"corpus": "", "out": ""})


def forever(task: TranslationTask, workers: Workers | None = None) -> Iterator[batches.Batch]:
    """Yield the training batches of one epoch after the other, or a worker's share of them."""
    epoch = 0
    while True:
        yield from task.batches(epoch, 0, workers or Workers())
        epoch += 1


def photograph(seed: int, size: tuple[int, int] = (500, 375)) -> bytes:
    """Make a JPEG of width x height with edges and texture, by default as large as ImageNet's."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
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


def write_features(out: Path, rows: int) -> None:
    """Write a features artifact of noise, a group of rows at a time; there are `LABELS` labels."""
    draw = np.random.default_rng(SEED)
    backbone = {"name": "noise", "weights": "default", "sha256": "", "image_size": 1, "fit": "crop"}
    config = {"images": "", "label_from": "folder", "backbone": backbone, "dimension": FEATURES}
    listed = pa.schema([("path", pa.string()), ("label", pa.string())])
    schema = pa.unify_schemas([listed, result_schema(FEATURES, with_classes=False)])
    with artifacts.create(str(out), feature_table.KIND, config) as writer:
        for part, first in enumerate(range(0, rows, PART_GROUPS * GROUP_ROWS)):
            end = min(first + PART_GROUPS * GROUP_ROWS, rows)
            path = writer.path(f"{feature_table.PARTS}/part-{part:05d}.parquet").path
            with pq.ParquetWriter(
                path, schema, compression="zstd", use_dictionary=["label"]
            ) as file:
                for begin in range(first, end, GROUP_ROWS):
                    numbers = range(begin, min(begin + GROUP_ROWS, end))
                    noise = np.abs(draw.standard_normal((len(numbers), FEATURES), np.float32))
                    flat = pa.array(noise.astype(np.float16).ravel())
                    columns = {
                        "path": [f"train/word{n % LABELS}/{n:08d}.jpg" for n in numbers],
                        "label": [f"word{n % LABELS}" for n in numbers],
                        "width": [1] * len(numbers),
                        "height": [1] * len(numbers),
                        "content_hash": [n.to_bytes(16, "little") for n in numbers],
                        "features": pa.FixedSizeListArray.from_arrays(flat, FEATURES),
                        "thumbnail": [b""] * len(numbers),
                    }
                    file.write_table(pa.table(columns, schema))
        writer.metrics["images"] = rows


def write_vectors(out: Path) -> None:
    """Write a vector of noise for each label of `write_features`."""
    vectors = np.random.default_rng(SEED).standard_normal((LABELS, DIMENSION))
    text = out.with_suffix(".vec")
    with text.open("w") as file:
        file.write(f"{LABELS} {DIMENSION}\n")
        for number, vector in enumerate(vectors):
            file.write(f"word{number} {' '.join(f'{x:.4f}' for x in vector)}\n")
    build_store(open_source("vec", str(text)), str(out), {})


def run_job(name: str, *flags: object) -> dict[str, Any]:
    """Run a job and return the last line that it prints, which is JSON."""
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, flags)]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True)
class StandingRay:
    """A Ray that `make ray` started."""

    address: str
    environment: Mapping[str, str]  # of a process that finds it and has its token
    process: psutil.Process  # of `make`; Ray's and its workers' are below it


@contextmanager
def standing_ray(*flags: str) -> Iterator[StandingRay]:
    """Run `make ray` for the length of the block, with its own port, token and folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sq-", dir="/tmp") as folder:  # sockets: a short path
        token, log = Path(folder, "token"), Path(folder, "log")
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = kept | {"RAY_TMPDIR": folder, "RAY_AUTH_TOKEN_PATH": str(token)}
        venv = Path(sys.executable).parents[1]
        command = ["make", "-o", f"{venv}/installed", "ray", f"VENV={venv}"]
        command.append(f"RAY_ARGS=--port={port} {' '.join(flags)}")
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            ) as make,
        ):
            try:
                while "Ray runtime started" not in log.read_text():
                    if make.poll() is not None:
                        raise RuntimeError(log.read_text())
                    time.sleep(0.1)
                yield StandingRay(f"127.0.0.1:{port}", environment, psutil.Process(make.pid))
            finally:
                with suppress(ProcessLookupError):  # it has ended
                    os.killpg(make.pid, signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        make.wait(20)
                    os.killpg(make.pid, signal.SIGKILL)
