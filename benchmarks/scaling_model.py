"""How far would training scale on 1 to 64 H100s? Step times predicted from counts and rates.

    python -m benchmarks.scaling_model --plot docs/images/scaling.png [--network 12.5e9 ...]

Counted from the models themselves: operations a word, gradient bytes, operations that are started
one after the other. Measured: rows of an embedding table that a batch touches, JPEGs decoded by a
core. Assumed, as no GPU was at hand: everything in `Machines` that is marked so. The lesson's GRU
is bound by the start of some thousand small operations a step, whatever the batch, so that larger
batches cost next to nothing and smaller ones save nothing.
"""

import argparse
import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.instrument import as_table
from seqvis.devise.head import Head, HeadSettings
from seqvis.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, new_figure, save, style
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, resolve_variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.training.step import _PEAKS
from seqvis.training.workers import MOST_TOUCHED

COUNTS = (1, 2, 4, 8, 16, 32, 64)
FLOAT = 4  # bytes of a gradient
RESNET50 = {"parameters": 25_557_032, "flops": 2 * 4.09e9}  # forward, 224 px; He et al. 2015
JPEG_BYTES = 110_000  # mean of ImageNet's training set


@dataclass(frozen=True)
class Machines:
    """Rates of the machines. Bandwidths are in bytes a second, one direction."""

    gpus: int = 8  # of a node
    peak: float = _PEAKS["H100"][0]  # dense bfloat16, the data sheet's
    utilisation: float = 0.3  # assumed, of large products, in training and in embedding
    start: float = 5e-6  # assumed: seconds to start a small operation from Python
    nvlink: float = 300e9  # assumed: what a ring of all-reduce reaches within a node
    network: float = 50e9  # assumed: of a node, 400 Gbit/s
    hop_near: float = 5e-6  # assumed: seconds of a message within a node, and between nodes
    hop_far: float = 25e-6
    cores: int = 24  # for each GPU: 192 in a node, as the large clouds have
    decoding: float = 82.0  # photographs a second of a core: measured on a busy two-core EPYC
    views: float = 214.0  # augmented views a second of a core: the same
    storage: float = 5e9  # assumed: what a node reads from an object store


@dataclass(frozen=True)
class Table:
    """An embedding table that is not tied to the output."""

    rows: int
    size: int

    def touched(self, words: float) -> float:
        """Distinct words among `words`, were their frequencies Zipf's (1/rank)."""
        ranks = torch.arange(1, self.rows + 1, dtype=torch.float64)
        shares = 1 / ranks / (1 / ranks).sum()
        return float((1 - (1 - shares) ** words).sum())

    def sent(self, words: float, by_rows: bool) -> float:
        """Bytes given to all-reduce for its gradient: see `seqvis.training.workers`."""
        whole = self.rows * self.size * FLOAT
        rows = self.touched(words)
        if not by_rows or rows >= MOST_TOUCHED * self.rows:
            return whole + by_rows * self.rows
        return rows * self.size * FLOAT + self.rows


@dataclass(frozen=True)
class Job:
    """One kind of training or embedding."""

    name: str
    unit: str
    batch: int  # words or pictures of all workers together, or of each if the batch grows
    grows: bool
    flops: float  # for a unit, backward pass included where there is one
    starts: float  # small operations of a step, one after the other
    dense_bytes: float = 0.0  # gradients that are always reduced whole
    table: Table | None = None
    read_bytes: float = 0.0  # from storage, for a unit
    decoded: bool = False  # every unit is a JPEG
    drawn: bool = False  # every unit is another view of it
    backward: float = 2 / 3  # share of a step's computation behind which messages can hide


@dataclass(frozen=True)
class Step:
    """The predicted step on a number of GPUs."""

    gpus: int
    parts: dict[str, float]  # seconds of what has to be waited for, by name
    seconds: float
    efficiency: float  # speed against that of as many single GPUs
    rate: float  # units a second
    sent: float  # bytes that each worker gives to all-reduce

    @property
    def bottleneck(self) -> str:
        return max(self.parts, key=lambda name: self.parts[name])


def all_reduce_seconds(size: float, gpus: int, machines: Machines) -> float:
    """Model a ring in each node and one between nodes (Thakur et al. 2005): hops and bytes."""
    near = min(gpus, machines.gpus)
    nodes = -(-gpus // machines.gpus)
    seconds = 0.0
    for members, hop, speed in (
        (near, machines.hop_near, machines.nvlink),
        (nodes, machines.hop_far, machines.network),
    ):
        if members > 1:
            seconds += 2 * (members - 1) * (hop + size / members / speed)
    return seconds


def predict(
    job: Job, gpus: int, machines: Machines, by_rows: bool = True, overlap: bool = True
) -> Step:
    """Return the step on a number of GPUs.

    Without `by_rows` tables are reduced whole; without `overlap` nothing is sent before the
    backward pass has ended.
    """
    units = job.batch if job.grows else job.batch / gpus
    arithmetic = units * job.flops / (machines.peak * machines.utilisation)
    starts = job.starts * machines.start
    computing = max(arithmetic, starts)
    last = job.table.sent(units * gpus, by_rows) if job.table else 0.0
    sent = 0.0 if gpus == 1 else job.dense_bytes + last
    waited = 0.0
    if gpus > 1 and sent:
        # The table's gradient is the last to be ready: nothing is left to hide it behind.
        hidden = all_reduce_seconds(job.dense_bytes, gpus, machines)
        waited = hidden + (all_reduce_seconds(last, gpus, machines) if last else 0.0)
        if overlap:
            waited -= min(hidden, job.backward * computing)
    nodes = -(-gpus // machines.gpus)
    reading = units * gpus * job.read_bytes / (nodes * machines.storage)
    decoding = units / (machines.cores * machines.decoding) if job.decoded else 0.0
    drawing = units / (machines.cores * machines.views) if job.drawn else 0.0
    seconds = max(computing + waited, reading, decoding + drawing)
    parts = {
        "arithmetic": arithmetic,
        "starting operations": starts,
        "reducing gradients": waited,
        "reading storage": reading,
        "decoding JPEGs": decoding,
        "drawing views": drawing,
    }
    alone = seconds if gpus == 1 else predict(job, 1, machines, by_rows, overlap).seconds
    work = gpus if job.grows else 1
    return Step(gpus, parts, seconds, alone * work / seconds / gpus, units * gpus / seconds, sent)


class _Starts(TorchDispatchMode):
    """Counts operations that start something on a device: all but views and allocations."""

    FREE = (
        "view _unsafe_view t transpose slice select unsqueeze squeeze expand permute detach alias "
        "as_strided split split_with_sizes unbind empty empty_like new_empty empty_strided"
    )

    def __init__(self) -> None:
        super().__init__()
        self.free = frozenset(self.FREE.split(" "))
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function.overloadpacket.__name__ not in self.free
        return function(*args, **(kwargs or {}))


def starts_of(model: Seq2Seq, source: int, target: int) -> int:
    """Operations of a forced step forward and backward, at these lengths.

    Counted is what PyTorch starts, as on a GPU, without the C++ extension, which processors alone
    have. The encoder, which cuDNN runs in a few, is not counted.
    """
    words = torch.randint(4, 100, (2, target))
    batch = SourceBatch(torch.randint(4, 100, (2, source)), torch.full((2,), source))
    state = model.encode(batch)
    masks = model.decoder.draw_masks(2, target) if model.training else None
    with patch.dict(os.environ, SEQVIS_NATIVE="0"), _Starts() as counted:
        output, _ = model.decoder.run(words.t(), state, masks)
        output.features.sum().backward()
    return counted.count


def translator(source_words: int, target_words: int) -> Seq2Seq:
    """`all` in the lesson's sizes with the presets' readout."""
    settings = ModelSettings.model_validate({"readout": "context"})
    return Seq2Seq(
        resolve_variant("all", settings, ForcingSettings())[0], source_words, target_words
    )


def jobs() -> list[Job]:
    """Return the jobs of docs/results/scaling.md."""
    translators = []
    for name, vocabularies, length, batch, grows in (
        ("Multi30k, 1,600 words", (6_469, 5_892), 15, 1_600, False),
        ("22.5 M pairs, 12,800 words a GPU", (40_000, 40_000), 30, 12_800, True),
    ):
        model = translator(*vocabularies)
        size = model.encoder.embedding.weight.numel() * FLOAT
        total = sum(parameter.numel() for parameter in model.parameters()) * FLOAT
        translators.append(
            Job(
                name, "words", batch, grows, 3.0 * sum(model.flops_per_word()),
                starts_of(model, length, length), total - size,
                Table(vocabularies[0], model.encoder.embedding.embedding_dim), read_bytes=4.0,
            )
        )  # fmt: skip
    head = Head(HeadSettings(dropout=0.5), 2048, 300)
    weights = sum(parameter.numel() for parameter in head.parameters())
    resnet = RESNET50["parameters"]
    return [
        *translators,
        Job("DeViSE head, 4,096 pictures a GPU", "pictures", 4_096, True,
            6.0 * (weights + 1_000 * 300), 120, weights * FLOAT),
        Job("DeViSE fine-tuning, 64 pictures a GPU", "pictures", 64, True,
            3 * RESNET50["flops"], 1_000, (resnet + weights) * FLOAT,
            read_bytes=JPEG_BYTES, decoded=True, drawn=True),
        Job("embedding pictures", "pictures", 64, True, RESNET50["flops"], 180,
            read_bytes=JPEG_BYTES, decoded=True),
    ]  # fmt: skip


def draw(path: Path, steps: dict[str, list[Step]]) -> None:
    """Draw the speed-up over one GPU by number of GPUs, a line a job, beside the ideal."""
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    axes.plot(COUNTS, COUNTS, color=GREY, linestyle=":", label="ideal")
    for (name, line), colour in zip(steps.items(), (BLUE, ORANGE, GREEN, PURPLE, INK), strict=True):
        speeds = [step.gpus * step.efficiency for step in line]
        axes.plot(COUNTS, speeds, color=colour, marker="o", markersize=4, label=name)
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_ticks(COUNTS, [str(count) for count in COUNTS])
    axes.set_xlabel("H100s, eight a node (predicted)")
    axes.set_ylabel("speed against one")
    axes.legend(frameon=False)
    style(axes)
    save(figure, path)


def main(arguments: list[str] | None = None) -> int:
    """Predict, print the table and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, help="PNG file to draw the speeds into")
    for each in dataclasses.fields(Machines):
        kind = type(each.default)
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)
    flags = vars(parser.parse_args(arguments))
    plot = flags.pop("plot")
    machines = Machines(**flags)
    steps: dict[str, list[Step]] = {}
    rows = []
    for job in jobs():
        steps[job.name] = [predict(job, count, machines) for count in COUNTS]
        for step in steps[job.name]:
            plain = predict(job, step.gpus, machines, by_rows=False, overlap=False)
            rows.append([
                job.name, step.gpus, f"{1e3 * step.seconds:.2f}", f"{step.efficiency:.2f}",
                f"{step.rate:,.0f}", f"{step.sent / 1e6:.1f}", step.bottleneck,
                f"{1e3 * plain.seconds:.2f}",
            ])  # fmt: skip
    heads = ["job", "GPUs", "step, ms", "efficiency", "a second", "sent, MB", "bottleneck"]
    print(as_table([*heads, "plain, ms"], *rows))
    if plot:
        draw(plot, steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
