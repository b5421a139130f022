"""Break a server and measure what its clients see; the tables of docs/results/serving.md.

    python -m benchmarks.faults --translator runs/demo/translator \\
        --collection runs/demo/collection --out faults.json

Figures go to a file as JSON, tables in Markdown to standard output. Clients that are refused come
again after Retry-After, so a request that was refused and then answered is not lost. The collection
is copied and stays as it is.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from benchmarks.breaking import (
    NEEDED_BY,
    QUERIES,
    TEXTS,
    Faults,
    Figures,
    a_picture,
    copy_of,
    errors,
    figures_table,
    offline,
    parser_of,
)
from seqvis import artifacts
from serve.app import free_port
from serve.testing.clients import Kind, Reply, Request, Traffic, quantile_ms
from serve.testing.server import (
    QUICK_AUTOSCALING,
    Overrides,
    RunningServer,
    local_config,
    run_config,
)
from serve.testing.traffic import faults, persist, searching, send, translating

PARTS = ("kill", "overload", "abandoned", "upgrade", "scale")
ABANDONED = ("Translator", "Index-0", "Encoder", "Writer")
ONE_EACH: Overrides = {
    name: {"num_replicas": 1} for name in ("Translator", "Encoder", "Index-0", "Gateway")
}
_QUICK = {"look_back_period_s": 5, "upscale_delay_s": 3, "downscale_delay_s": 15}
_TWO = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 12}
_NONE = {"min_replicas": 0, "initial_replicas": 1, "max_replicas": 1, "target_ongoing_requests": 4}
SCALED: Overrides = {
    "Translator": {"autoscaling_config": _QUICK | _TWO},
    "Encoder": {"autoscaling_config": {**_QUICK, **_NONE, "downscale_to_zero_delay_s": 15}},
}


def upgrade(
    server: RunningServer, translator: str, other: str, per_second: float, seconds: float
) -> Figures:
    """Switch to another translator and back, twice, while lists are translated."""
    seen: list[tuple[float, str, str]] = []  # when, the model's name, whose texts
    mixed = 0
    expected = {path: offline(path) for path in (translator, other)}
    first, second = expected.values()
    telling = [text for text in TEXTS if first[text] != second[text]]
    lists = [telling[start : start + 8] for start in range(0, len(telling), 8)]

    def done(request: Request, reply: Reply) -> None:
        nonlocal mixed
        if reply.status != 200:
            return
        answer = json.loads(reply.body)
        made = {(each["source"], each["text"]) for each in answer["translations"]}
        by = [path for path, known in expected.items() if made <= set(known.items())]
        if by:
            seen.append((reply.ended, answer["model"], by[0]))
        else:
            mixed += 1

    def request(number: int) -> Request:
        return Request("/v1/translate", {"text": lists[number % len(lists)]})

    kind = Kind(request, 16, per_second / 8, done=done)
    accepted_s, late_s = [], []
    with Traffic(server.address, {"translate": kind}) as traffic:
        traffic.wait_good(5)
        for name, path in 2 * [("other", other), ("default", translator)]:
            time.sleep(seconds / 5)
            sent = traffic.now()
            versions = {"versions": [{"name": name, "path": path}]}
            change = Request("/v1/models/translator", versions, method="PUT")
            answer = send(server, change)
            assert answer.status_code == 200, answer.text
            accepted = traffic.now()
            traffic.wait_good(20)
            latest = max((end for end, model, _ in seen if model != name), default=accepted)
            accepted_s.append(round(accepted - sent, 2))
            late_s.append(round(max(0.0, latest - accepted), 2))
    outcome = kind.outcome
    good = outcome.good()
    misnamed = sum((model == "other") != (path == other) for _, model, path in seen)
    failed = len(outcome.statuses) - outcome.count(200)
    return {
        "lists asked for": len(outcome.statuses),
        "failed, mixed, misnamed": f"{failed}, {mixed}, {misnamed}",
        "answers of the other model": sum(path == other for _, _, path in seen),
        "p50, p99": f"{quantile_ms(good, 0.5)} ms, {quantile_ms(good, 0.99)} ms",
        "until a switch is accepted, s": accepted_s,
        "last answer of the old model after it, s": late_s,
    }


def disturbed(path: str, out: Path) -> str:
    """Copy a translator with some noise in its weights, so that it translates differently."""
    artifact = artifacts.load(path, "translator")
    draw = np.random.default_rng(0)
    with artifacts.create(str(out), "translator", artifact.config) as writer:
        writer.metrics.update(artifact.metrics)
        for name in artifact.files:
            content = artifact.file(name).read_bytes()
            if name == "model.safetensors":
                tensors = load_tensors(content)
                for key, weights in tensors.items():
                    noise = weights.std() * draw.normal(size=weights.shape)
                    tensors[key] = (weights + noise).astype(weights.dtype)
                content = save_tensors(tensors)
            writer.path(name).write_bytes(content)
    return str(out)


def scaling(server: RunningServer, translator: str, picture: bytes) -> Figures:
    """Load it until there is a second translator, then lightly until that is gone again."""
    expected = offline(translator)
    heavy = translating(expected, 48)
    light = {"translate": translating(expected, 2, 20), "search": searching(QUERIES, 1, 10)}
    persist(server, Request("/v1/search/image", form={"file": picture}))
    with Traffic(server.address, {"heavy": heavy}):
        up = server.wait_replicas("Translator", 2)
        time.sleep(10)
    down: dict[str, float] = {}
    with Traffic(server.address, light) as traffic:

        def settled() -> bool:
            for name, count in (("Translator", 1), ("Encoder", 0)):
                if name not in down and len(server.replicas(name)) == count:
                    down[name] = round(traffic.now(), 1)
            return len(down) == 2

        server.wait(settled, 180, "the replicas do not go")
        time.sleep(5)
    began = time.monotonic()
    persist(server, Request("/v1/search/image", form={"file": picture}))
    return {
        "second translator ready, s after the load began": round(up, 1),
        "back to one, s after it ended": down["Translator"],
        "encoder at zero, s after it ended": down["Encoder"],
        "first picture after zero, s": round(time.monotonic() - began, 1),
        "requests on the way down": sum(len(kind.outcome.statuses) for kind in light.values()),
        "refused": sum(kind.outcome.count(503) for kind in light.values()),
        "errors": errors(faults({"heavy": heavy, **light})),
    }


def _served(
    translator: str, collection: Path, deployments: Overrides
) -> AbstractContextManager[RunningServer]:
    folder = collection.parent
    roots = {"gateway": {"model_roots": [str(folder)]}}  # of the other translator
    config = local_config(translator, collection, free_port(), roots, deployments)
    return run_config(config, folder / "logs", QUICK_AUTOSCALING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and print them."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds-each", type=float, default=60.0, help="of each fault")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    flags = parser.parse_args(arguments)
    results: dict[str, dict[str, Figures]] = {}

    def measure(part: str, name: str, work: Callable[[], Figures]) -> None:
        print(f"{part} {name} …", file=sys.stderr, flush=True)
        results.setdefault(part, {})[name] = work()
        flags.out.write_text(json.dumps(results, indent=1))

    seconds = flags.seconds_each
    translator = str(flags.translator.resolve())
    with copy_of(flags.collection) as collection:
        with _served(translator, collection, ONE_EACH) as server:
            breaking = Faults(server, translator, collection)
            measure("capacity", "a second", lambda: breaking.capacity(seconds / 4))
            capacity = results["capacity"]["a second"]
            if "kill" in flags.parts:
                third = {kind: rate / 3 for kind, rate in capacity["together"].items()}
                for deployment in NEEDED_BY:
                    work = partial(breaking.kill, deployment, third, seconds)
                    measure("kill", deployment, work)
            if "overload" in flags.parts:
                work = partial(breaking.overload, capacity["lists"], 2 * seconds)
                measure("overload", "ten times the load", work)
            if "abandoned" in flags.parts:
                for deployment in ABANDONED:
                    measure("abandoned", deployment, partial(breaking.abandoned, deployment))
            if "upgrade" in flags.parts:
                other = disturbed(translator, collection.parent / "other")
                half = capacity["translations"] / 2
                work = partial(upgrade, server, translator, other, half, seconds)
                measure("upgrade", "under load", work)
        if "scale" in flags.parts:
            with _served(translator, collection, SCALED) as server:
                picture = a_picture(collection)
                measure("scale", "and back", lambda: scaling(server, translator, picture))
    for part, rows in results.items():
        if len(rows) == 1:  # one thing with many figures: a figure a line
            ((name, figures),) = rows.items()
            rows = {figure: {name: value} for figure, value in figures.items()}
        print(figures_table(part, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
