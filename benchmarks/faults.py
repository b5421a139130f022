"""Breaks the server and measures what its clients see; the table in docs/results.md.

    python -m benchmarks.faults --translator runs/demo/translator \
        --collection runs/demo/collection --out faults.json

In: the artifacts of the demo (the collection is copied, so it stays as it is). Out: figures as
JSON, and tables in Markdown on standard output. What would surprise a reader: clients that are
refused come again when they were told to, so a request that was refused and then answered is no
loss.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.breaking import NEEDED_BY, QUERIES, Faults, a_picture, offline
from benchmarks.faults_report import markdown
from serve.testing.clients import Request
from serve.testing.load import Traffic
from serve.testing.server import (
    QUICK_AUTOSCALING,
    Changes,
    RunningServer,
    free_port,
    local_config,
    run_config,
)
from serve.testing.traffic import faults, persist, searching, translating

PARTS = ("kill", "overload", "abandoned", "upgrade", "soak", "scale")
ONE_EACH: Changes = {
    name: {"num_replicas": 1} for name in ("Translator", "Encoder", "Index-0", "Gateway")
}
SCALED: Changes = {
    "Translator": {
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": 2,
            "target_ongoing_requests": 12,
            "look_back_period_s": 5,
            "upscale_delay_s": 3,
            "downscale_delay_s": 15,
        }
    },
    "Encoder": {
        "autoscaling_config": {
            "min_replicas": 0,
            "initial_replicas": 1,
            "max_replicas": 1,
            "target_ongoing_requests": 4,
            "look_back_period_s": 5,
            "downscale_delay_s": 15,
            "downscale_to_zero_delay_s": 15,
        }
    },
}


def scaling(server: RunningServer, translator: str, picture: bytes) -> dict[str, Any]:
    """A load until a second translator is there, then a light one until it is gone again."""
    expected = offline(translator)
    heavy = translating(expected, 48)
    light = {"translate": translating(expected, 2, 20), "search": searching(QUERIES, 1, 10)}
    persist(server, Request("/v1/search/image", form={"file": picture}))
    with Traffic(server.address, {"heavy": heavy}):
        up = server.wait_replicas("Translator", 2)
        time.sleep(10)
    with Traffic(server.address, light):
        began = time.monotonic()
        down = {}

        def settled() -> bool:
            for name, count in (("Translator", 1), ("Encoder", 0)):
                if name not in down and len(server.replicas(name)) == count:
                    down[name] = round(time.monotonic() - began, 1)
            return len(down) == 2

        server.wait(settled, 180, "the replicas do not go")
        time.sleep(5)
    began = time.monotonic()
    persist(server, Request("/v1/search/image", form={"file": picture}))
    return {
        "second_replica_s": round(up, 1),
        "heavy": heavy.outcome.summary(),
        "back_to_one_s": down["Translator"],
        "encoder_to_zero_s": down["Encoder"],
        "first_picture_after_zero_s": round(time.monotonic() - began, 1),
        "errors": faults({"heavy": heavy, **light}),
        "refused": sum(kind.outcome.count(503) for kind in light.values()),
        "light_requests": sum(len(kind.outcome.statuses) for kind in light.values()),
    }


@contextmanager
def _served(translator: str, collection: Path, deployments: Changes) -> Iterator[RunningServer]:
    roots = {"gateway": {"model_roots": [str(collection.parent)]}}  # of the other translator
    config = local_config(translator, collection, free_port(), roots, deployments)
    with tempfile.TemporaryDirectory() as logs:
        with run_config(config, Path(logs), QUICK_AUTOSCALING) as server:
            yield server


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--translator", required=True)
    parser.add_argument("--collection", required=True, type=Path)
    parser.add_argument("--seconds-each", type=float, default=60.0, help="of each fault")
    parser.add_argument("--soak-seconds", type=float, default=600.0)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {}

    def measure(name: str, part: Callable[[], Any]) -> None:
        print(f"{name} …", file=sys.stderr, flush=True)
        found[name] = part()
        given.out.write_text(json.dumps(found, indent=1))

    seconds = given.seconds_each
    translator = str(Path(given.translator).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        collection = folder / "collection"
        shutil.copytree(given.collection, collection)
        with _served(translator, collection, ONE_EACH) as server:
            breaking = Faults(server, translator, collection, folder)
            measure("capacity", lambda: breaking.capacity(seconds / 4))
            capacity = found["capacity"]
            if "kill" in given.parts:
                third = {name: one / 3 for name, one in capacity["together"].items()}
                for one in NEEDED_BY:
                    measure(f"kill {one}", partial(breaking.kill, one, third, seconds))
            if "overload" in given.parts:
                lists = capacity["lists_per_second"]
                measure("overload", lambda: breaking.overload(lists, 2 * seconds))
            if "abandoned" in given.parts:
                measure("abandoned", breaking.abandoned)
            if "upgrade" in given.parts:
                half = capacity["translations_per_second"] / 2
                measure("upgrade", lambda: breaking.upgrade(half, seconds))
            if "soak" in given.parts:
                most = {name: 0.7 * one for name, one in capacity["together"].items()}
                measure("soak", lambda: breaking.soak(most, given.soak_seconds))
        if "scale" in given.parts:
            with _served(translator, collection, SCALED) as server:
                picture = a_picture(collection)
                measure("scale", lambda: scaling(server, translator, picture))
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
