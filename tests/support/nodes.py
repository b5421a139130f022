"""A Ray of several nodes on this machine, and what befalls them: run in a process of its own.

    python -m tests.support.nodes FOLDER

The cluster's head has no processors, and each other node has one. Nodes are lost, drained and added
in the middle of the work, and what came out is printed as one line of JSON. A process of its own,
because the tests share another Ray (`tests/conftest.py`).

Where Ray looks at its nodes every few seconds, it looks several times a second here. While
`stoppable` trainings end an epoch they wait for their listener, so what befalls the nodes is never
too late for them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    _AutoscalingCoordinatorActor,
)

from seqvis.artifacts import load
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.devise.train import train as train_devise
from seqvis.samples.questions import generate_pairs
from seqvis.training import ray_train
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
from tests.support.processes import children_named
from tests.support.waiting import checkpoints, wait_until

DRAIN_SECONDS = 3
EPOCHS, STEPS = 5, 60
TUNING_EPOCHS = 4
STILL = dict.fromkeys(("input", "encoder", "bridge", "decoder", "output"), 0.0)
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # off in a process that had a local Ray
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3",  # that processors of a lost node are waited for
}
DEATHS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300}
"""Of Ray's head, which takes a node for dead that has refused five checks."""


class QuickCoordinator(_AutoscalingCoordinatorActor):
    """Tells elastic trainings what nodes there are. Ray's own counts them every 20 s."""

    TICK_INTERVAL_S = 0.3


class Nodes:
    """Worker nodes of one processor each, and a head."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": DEATHS}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(self.cluster.address, log_to_driver=False, logging_level="ERROR")
        name = "AutoscalingCoordinator"
        self.coordinator = (
            ray.remote(num_cpus=0)(QuickCoordinator)
            .options(name=name, namespace=name, lifetime="detached")
            .remote()
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(3)]

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def lose(self) -> None:
        """Kills all processes of the newest node, as a power cut would."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def drain(self) -> None:
        """What a cloud's notice of preemption leads to, on the oldest node."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        command += ["--address", self.cluster.address, "--node-id", self.nodes.pop(0).node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command += ["--deadline-remaining-seconds", str(DRAIN_SECONDS)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def wait_for_workers(self, count: int) -> None:
        """Waits until a training has so many workers."""

        def all_run() -> bool:
            return len(children_named("ray::RayTrainWorker")) == count

        wait_until(all_run, f"there are not {count} workers", 120)


@contextmanager
def three_nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()


class Listener:
    """A listener to a training: what it was told, and what befell the nodes, in their order."""

    def __init__(self, due: dict[int, Callable[[], None]], epochs: int, position: int):
        """In these epochs, `due` is called when a progress of this training is told there."""
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._due, self._epochs, self._position = due, epochs, position

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            self.history = event["history"]
            self.notes.append(f"epoch {len(self.history)}")
        if event["event"] == "note":
            self.notes.append(event["text"])
        if event["event"] == "progress" and event["epochs"] == self._epochs:
            due = self._due if event["position"] >= self._position else {}
            due.pop(event["epoch"], lambda: None)()

    def summary(self) -> dict[str, Any]:
        return {"history": self.history, "notes": self.notes}


def data(folder: Path, nodes: Nodes) -> dict[str, Any]:
    """Preparation of text and of pictures, undisturbed and with a node lost in the middle."""
    pairs = generate_pairs(2000, seed=5)
    for side, name in enumerate(("text.fr", "text.en")):
        (folder / name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
    for number in range(60):
        path = folder / "images" / f"n{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    results: dict[str, Any] = {"lost": []}

    def progress_of(stage: str | None) -> Any:
        waiting = [stage]

        def progress(now: str, done: int, total: int) -> None:
            if now == waiting[0] and 0 < done < total:
                waiting[0] = None
                nodes.lose()
                results["lost"].append(f"{now}: {done} of {total}")

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
        results[f"corpus-{name}"] = _hashes(folder / f"corpus-{name}", "corpus")
    for name, lost in (("whole", False), ("lost", True)):
        pictures = EmbedSettings(
            images=str(folder / "images"),
            out=str(folder / f"features-{name}"),
            backbone="shufflenet_v2_x0_5",
            weights=str(folder / "weights.pth"),
            image_size=48,
            batch_size=4,
        )
        embed_images(pictures, progress_of("embedding images" if lost else None))
        results[f"features-{name}"] = _hashes(folder / f"features-{name}", "features")
    return results


def _hashes(place: Path, kind: str) -> dict[str, str]:
    """SHA-256 of each data file; a corpus's report and its plot tell of the run, too."""
    files = load(str(place), kind).files
    return {name: entry["sha256"] for name, entry in files.items() if "report" not in name}


def training(folder: Path, nodes: Nodes) -> dict[str, Any]:
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

    def lose() -> None:
        saved = folder / "three.run" / "checkpoints"
        wait_until(lambda: bool(checkpoints(saved)), "no checkpoint is saved")
        nodes.lose()
        three_workers.notes.append("lose")

    def drain() -> None:
        nodes.drain()
        three_workers.notes.append("drain")

    def listen(event: dict[str, Any]) -> None:
        three_workers(event)
        if event["event"] == "epoch" and "drain" in three_workers.notes:
            if any("about to be taken away" in text for text in three_workers.notes):
                nodes.wait_for_workers(1)
            else:
                time.sleep(0.5)  # the notice is on its way to the workers

    one_worker, three_workers = Listener({}, EPOCHS, 0), Listener({2: lose, 3: drain}, EPOCHS, 20)
    train(settings("one"), one_worker)
    resources = Resources(3, min_workers=1, cpus_per_worker=1)
    train(settings("three"), listen, resources, stoppable=True)
    return {"one": one_worker.summary(), "three": three_workers.summary()}


def tuning(folder: Path, nodes: Nodes) -> dict[str, Any]:
    """Fine-tuning in this process; then with two workers, with a third, and without one again."""

    def grow() -> None:
        nodes.wait_for_workers(2)
        nodes.add()
        nodes.wait_for_workers(3)
        several.notes.append("grown")

    def lose() -> None:
        nodes.lose()
        several.notes.append("lose")

    due = {2: grow, 3: lose}
    alone, several = Listener({}, TUNING_EPOCHS, 0), Listener(due, TUNING_EPOCHS, 1)
    train_devise(tuning_settings(folder, "one", TUNING_EPOCHS), alone)
    same_head(folder, "several", "one")
    resources = Resources(3, min_workers=1, cpus_per_worker=1)
    settings = tuning_settings(folder, "several", TUNING_EPOCHS)
    train_devise(settings, several, resources, stoppable=True)
    return {"one": alone.summary(), "several": several.summary()}


def main(folder: Path) -> dict[str, Any]:
    """All of it on one cluster, since each node takes seconds to start."""
    os.environ.update(ENVIRONMENT)
    ray_train.SECONDS_BETWEEN_COUNTS = 1.0
    for name in ("data", "training", "tuning"):
        (folder / name).mkdir()
    backbone = backbone_without_dropout(folder / "data")
    make_drawings(folder / "tuning", backbone)
    with three_nodes() as nodes:
        results = {"data": data(folder / "data", nodes)}  # leaves one of the nodes
        nodes.add()
        nodes.add()
        results["training"] = training(folder / "training", nodes)  # and again
        nodes.add()
        results["tuning"] = tuning(folder / "tuning", nodes)
    return results


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
