"""Embedding pictures: the job's rate beside what decoding and the network alone would allow.

The limit is one processor that decodes a picture as fast as it can and then embeds it as fast as it
can, with our network or timm's of the same form, times the number of processors. The job's rate is
that of the pictures by which a longer run exceeds a shorter one, so that the start of Ray and its
workers is not in it.
"""

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.instrument import Row, Side, WrongResultError, compare
from benchmarks.material import Material, photograph, run_job, write_files
from seqvis.process import usable_processors
from seqvis.vision.backbones import Backbone, load_backbone
from seqvis.vision.feature_table import FeatureTable
from seqvis.vision.images import decode, enough, square, thumbnail

FEW, MANY, SIZE, BATCH = 128, 512, 224, 64
NAME = "efficientnet_lite0"


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """One row."""
    import timm

    cores = usable_processors()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents = [photograph(number) for number in range(MANY)]
        for kind, count in (("few", FEW), ("many", MANY)):
            write_files(folder / kind / "x", contents[:count])
        backbone = load_backbone(NAME, "default", SIZE)
        alone: dict[str, list[float]] = defaultdict(list)
        peer = timm.create_model(NAME).eval().to(memory_format=torch.channels_last)

        def ideal() -> float:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            squares = []
            began = time.perf_counter()
            for content in contents[:BATCH]:
                picture = decode(content, enough(SIZE)).picture
                squares.append(square(picture, SIZE, "crop"))
                thumbnail(picture)
            decoding = time.perf_counter() - began
            pictures = np.stack(squares)
            ours = _seconds(backbone.embed, pictures)
            theirs = _seconds(lambda batch: peer(_as_tensor(batch)), pictures)
            torch.set_num_threads(threads)
            alone["decoding"].append(BATCH / decoding)
            alone["network"].append(BATCH / ours)
            alone["timm's network"].append(BATCH / theirs)
            return cores * BATCH / (decoding + min(ours, theirs))

        def job() -> float:
            seconds = [_job(folder, kind, cores) for kind in ("few", "many")]
            return (MANY - FEW) / (seconds[1] - seconds[0])

        sides = [Side("decoding and network alone", ideal), Side("embed_images", job, 0.9)]
        row = compare(f"embedding, {NAME}", "pictures/s", sides, rounds)
        for part, rates in alone.items():
            row.checks[f"{part} alone, one core"] = round(float(np.median(rates)), 1)
        row.checks["largest difference of a feature"] = _difference(folder, backbone, contents)
        yield row


def _seconds(embed: Callable[[np.ndarray], Any], pictures: np.ndarray) -> float:
    """Seconds that a warm network takes."""
    with torch.inference_mode():
        embed(pictures[:8])
        began = time.perf_counter()
        embed(pictures)
        return time.perf_counter() - began


def _as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _job(folder: Path, kind: str, workers: int) -> float:
    """The seconds in which the job, with as many workers for each, embedded a folder."""
    out = folder / f"features-{kind}"
    shutil.rmtree(out, ignore_errors=True)
    result = run_job(
        "embed_images", "--images", folder / kind, "--out", out, "--backbone", NAME,
        "--image-size", SIZE, "--batch-size", BATCH, "--num-workers", workers,
    )  # fmt: skip
    return float(result["embedded"]) / float(result["images_per_second"])


def _difference(folder: Path, backbone: Backbone, contents: list[bytes]) -> float:
    """Between the features of the job and of the network alone, which float16 rounds."""
    stored = FeatureTable.open(str(folder / "features-few")).features[:BATCH]
    wanted = backbone.embed_files(contents[:BATCH]).features
    largest = float(np.abs(stored - wanted).max() / np.abs(wanted).max())
    if largest > 2e-3:
        raise WrongResultError(f"a feature differs by {largest:.1%} of the largest")
    return round(largest, 5)
