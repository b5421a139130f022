"""A Ray of several nodes on this machine, and what befalls them: run in a process of its own.

    python -m tests.support.nodes training|data FOLDER

Each scenario starts a cluster whose head has no processors and whose three nodes have one each,
loses nodes in the middle of the work, and prints what came out as one line of JSON. A process of
its own, because the tests share another Ray (`tests/conftest.py`).
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from seqvis.artifacts import load
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.devise.train import train as train_devise
from seqvis.samples.questions import generate_pairs
from seqvis.training.workers import Resources
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.vision.embed import EmbedSettings, embed_images
from tests.support.corpora import write_corpus
from tests.support.devise import (
    backbone_without_dropout,
    make_drawings,
    same_head,
    tuning_settings,
)
from tests.support.pictures import encoded

DRAIN_SECONDS = 4
EPOCHS, STEPS = 12, 60  # enough of them that the drain's deadline comes before the end
STILL = dict.fromkeys(("input", "encoder", "bridge", "decoder", "output"), 0.0)


class Nodes:
    """Three worker nodes of one processor each, and a head."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        ray.init(self.cluster.address, log_to_driver=False, logging_level="ERROR")
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(3)]

    def lose(self) -> None:
        """Kills all processes of the newest node, as a power cut would."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def replace(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def drain(self) -> None:
        """What a cloud's notice of preemption leads to, on the oldest node."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        command += ["--address", self.cluster.address, "--node-id", self.nodes[0].node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command += ["--deadline-remaining-seconds", str(DRAIN_SECONDS)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def three_nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()


def training(folder: Path) -> dict[str, Any]:
    """One worker without Ray; then three, of which one is lost and one is drained."""
    pairs = generate_pairs(390, seed=3)
    corpus = write_corpus(folder / "corpus", pairs[30:], pairs[:30])

    def settings(name: str) -> TrainSettings:
        return TrainSettings.model_validate(
            {
                "corpus": str(corpus),
                "out": str(folder / name),
                "variant": "plain",
                "epochs": EPOCHS,
                "batches": {"size": 6},
                "model": {"embedding_size": 32, "hidden_size": 24, "dropout": STILL},
                "fit": {"precision": "float32"},
                "samples": 0,
            }
        )

    histories: dict[str, Any] = {}
    notes: list[tuple[float, str]] = []
    started = time.monotonic()

    def report_of(name: str, nodes: Nodes | None = None) -> Any:
        due = {2: Nodes.lose, 4: Nodes.drain}

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                histories[name] = event["history"]
                notes.append((time.monotonic() - started, f"epoch {len(event['history'])}"))
            if event["event"] == "note":
                notes.append((time.monotonic() - started, event["text"]))
            if event["event"] == "progress" and nodes and 20 <= event["position"] < STEPS - 10:
                what = due.pop(event["epoch"], None)
                if what is not None:
                    what(nodes)
                    notes.append((time.monotonic() - started, what.__name__))

        return report

    train(settings("one"), report_of("one"))
    with three_nodes() as nodes:
        resources = Resources(3, min_workers=1, cpus_per_worker=1)
        train(settings("three"), report_of("three", nodes), resources)
    return {"histories": histories, "notes": notes}


def data(folder: Path) -> dict[str, Any]:
    """Preparation of text and of pictures, undisturbed and with a node lost in the middle."""
    pairs = generate_pairs(3000, seed=5)
    for side, name in enumerate(("text.fr", "text.en")):
        (folder / name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
    for number in range(60):
        path = folder / "images" / f"n{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    found: dict[str, Any] = {"lost": []}
    with three_nodes() as nodes:

        def progress_of(stage: str | None) -> Any:
            waiting = [stage]

            def progress(now: str, done: int, total: int) -> None:
                if now == waiting[0] and 0 < done < total:
                    waiting.clear()
                    waiting.append(None)
                    nodes.lose()
                    found["lost"].append(f"{now}: {done} of {total}")

            return progress

        for name, lost in (("whole", False), ("lost", True)):
            text = PrepareSettings(
                source=str(folder / "text.fr"),
                target=str(folder / "text.en"),
                source_lang="fr",
                target_lang="en",
                out=str(folder / f"corpus-{name}"),
                lines_per_block=100,
            )
            prepare(text, progress_of("tokenising" if lost else None))
            found[f"corpus-{name}"] = _hashes(folder / f"corpus-{name}", "corpus")
        nodes.replace()
        for name, lost in (("whole", False), ("lost", True)):
            pictures = EmbedSettings(
                images=str(folder / "images"),
                out=str(folder / f"features-{name}"),
                backbone="efficientnet_lite0",
                image_size=48,
                batch_size=4,
            )
            embed_images(pictures, progress_of("embedding images" if lost else None))
            found[f"features-{name}"] = _hashes(folder / f"features-{name}", "features")
        nodes.replace()
        found["tuning"] = _tuning(folder / "tuning", nodes)
    return found


def _tuning(folder: Path, nodes: Nodes) -> dict[str, Any]:
    """Fine-tuning in this process; then three workers, of which one is lost."""
    folder.mkdir()
    make_drawings(folder, backbone_without_dropout(folder))
    histories: dict[str, Any] = {}
    notes: list[str] = []

    def report_of(name: str, losing: bool) -> Any:
        due = [nodes.lose] if losing else []

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                histories[name] = event["history"]
            if event["event"] == "note":
                notes.append(event["text"])
            second = event["event"] == "progress" and event["epoch"] == 2
            if second and event["epochs"] == EPOCHS and due:
                due.pop()()

        return report

    train_devise(tuning_settings(folder, "one", EPOCHS), report_of("one", False))
    same_head(folder, "three", "one")
    resources = Resources(3, min_workers=1, cpus_per_worker=1)
    train_devise(tuning_settings(folder, "three", EPOCHS), report_of("three", True), resources)
    return {"histories": histories, "notes": notes}


def _hashes(place: Path, kind: str) -> dict[str, str]:
    """SHA-256 of each data file; a corpus's report and its plot tell of the run, too."""
    files = load(str(place), kind).files
    return {name: entry["sha256"] for name, entry in files.items() if "report" not in name}


if __name__ == "__main__":
    print(json.dumps({"training": training, "data": data}[sys.argv[1]](Path(sys.argv[2]))))
