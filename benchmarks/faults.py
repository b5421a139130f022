"""Breaks the server and measures what its clients see; the table in docs/results.md.

    python -m benchmarks.faults --translator runs/demo/translator \\
        --collection runs/demo/collection --out faults.json

In: the artifacts of the demo (the collection is copied, so it stays as it is). Out: figures as
JSON, and tables in Markdown on standard output. What would surprise a reader: clients that are
refused come again when they were told to, so a request that was refused and then answered is no
loss.

The figures of faults.py as Markdown."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.breaking import NEEDED_BY, QUERIES, Faults, a_picture, offline
from serve.testing.clients import Request
from serve.testing.load import Traffic
from serve.testing.server import (
    QUICK_AUTOSCALING,
    Overrides,
    RunningServer,
    free_port,
    local_config,
    run_config,
)
from serve.testing.traffic import faults, persist, searching, translating

PARTS = ("kill", "overload", "abandoned", "upgrade", "soak", "scale")
ONE_EACH: Overrides = {
    name: {"num_replicas": 1} for name in ("Translator", "Encoder", "Index-0", "Gateway")
}
SCALED: Overrides = {
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
def _served(translator: str, collection: Path, deployments: Overrides) -> Iterator[RunningServer]:
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


def markdown(found: Mapping[str, Any]) -> str:
    """Tables of whatever was measured."""
    return "\n".join(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    capacity = found["capacity"]
    together = ", ".join(f"{one:.0f} {name}" for name, one in capacity["together"].items())
    yield (
        f"A second has at most {capacity['translations_per_second']:.0f} translations for 32 "
        f"clients, or {capacity['lists_per_second']:.1f} lists of 16 with a beam of 4 for 8, or "
        f"{together} together.\n"
    )
    kills = {name.removeprefix("kill "): one for name, one in found.items() if "kill " in name}
    if kills:
        yield (
            "| killed | requests/s | errors | 503, answered later | lost requests | changes lost "
            "| answers again after, s | longest gap of what does not need it, s |"
        )
        yield "| --- " * 8 + "|"
    for name, one in kills.items():
        needed = {kind: one["recovered_s"][kind] for kind in NEEDED_BY[name]}
        others = {kind: gap for kind, gap in one["longest_gap_s"].items() if kind not in needed}
        yield (
            f"| {name} | {one['per_second']:.0f} | {_errors(one)} | {one['refused']} | "
            f"{one['lost_requests']} | {len(one['changes_lost'])} of {one['changes']} | "
            f"{_largest(needed)} | {_largest(others)} |"
        )
    if "overload" in found:
        yield from _overload(found["overload"])
    if "abandoned" in found:
        yield (
            "\n| abandoned after 100 ms | requests | answered or refused before | cancelled "
            "| busy before, and in the second second after, s |"
        )
        yield "| --- " * 5 + "|"
        for name, one in found["abandoned"].items():
            yield (
                f"| {name} | {one['given_up']} | {one['answered']} | {one['cancelled']} | "
                f"{one['idle_busy_s']}, {one['busy_s']} |"
            )
    if "upgrade" in found:
        one = found["upgrade"]
        yield "\n| upgrade under load | |\n| --- | --- |"
        yield f"| lists asked for | {one['requests']} |"
        yield f"| failed, mixed, misnamed | {one['failed']}, {one['mixed']}, {one['misnamed']} |"
        yield f"| answers of the other model | {one['answers_of_other']} |"
        yield f"| p50, p99 | {one['p50_ms']} ms, {one['p99_ms']} ms |"
        yield f"| until a switch is accepted | {_list(one['accepted_s'])} s |"
        yield f"| last answer of the old model after it | {_list(one['old_answers_until_s'])} s |"
    if "scale" in found:
        yield from _scale(found["scale"])
    if "soak" in found:
        yield from _soak(found["soak"])


def _overload(one: Mapping[str, Any]) -> Iterator[str]:
    statuses = {int(status): count for status, count in one["statuses"].items()}
    yield "\n| ten times the load | |\n| --- | --- |"
    yield f"| lists asked for | {one['asked_per_second']:.0f} a second |"
    yield f"| answered, refused with 503 | {statuses.get(200, 0)}, {statuses.get(503, 0)} |"
    yield f"| errors | {_errors(one)} |"
    yield f"| p50, p99 of the answered | {one['p50_ms']} ms, {one['p99_ms']} ms |"
    yield f"| p50, p99 of the refused | {one['refused_p50_ms']} ms, {one['refused_p99_ms']} ms |"
    search = {int(status): count for status, count in one["search"]["statuses"].items()}
    yield (
        f"| searches meanwhile | {search.get(200, 0)} answered, p50 {one['search']['p50_ms']} ms, "
        f"p99 {one['search']['p99_ms']} ms; {search.get(503, 0)} refused |"
    )
    hostile, slow = one["hostile"], one["slow"]
    cancelled = _numbers(one["cancelled"])
    yield f"| lists given up after 100 ms; cancelled | {one['given_up']}; {cancelled} |"
    yield (
        f"| hostile requests; refused with a typed error; the slowest | {hostile['sent']}; "
        f"{hostile['typed']}; {hostile['slowest_s']} s |"
    )
    yield f"| slow clients that were cut off; the longest | {slow['held']}; {slow['longest_s']} s |"
    for when in ("before", "most", "after"):
        yield f"| memory {when}, MiB | {_numbers(one['memory_' + when])} |"
    yield f"| first answer after it | {one['first_answer_s']} s |"
    yield f"| as quick as before | after {one['normal_s']} s |"


def _scale(one: Mapping[str, Any]) -> Iterator[str]:
    yield "\n| scaling | |\n| --- | --- |"
    yield f"| second translator ready | {one['second_replica_s']} s after the load began |"
    yield f"| back to one | {one['back_to_one_s']} s after it ended |"
    yield f"| encoder at zero | {one['encoder_to_zero_s']} s after it ended |"
    yield f"| first picture after zero | {one['first_picture_after_zero_s']} s |"
    yield f"| requests on the way down | {one['light_requests']} |"
    yield f"| of them refused; errors | {one['refused']}; {_errors(one)} |"


def _soak(one: Mapping[str, Any]) -> Iterator[str]:
    rates = ", ".join(f"{kind['per_second']} {name}" for name, kind in one["kinds"].items())
    yield (
        f"\nA steady load of {rates} a second. Errors: {_errors(one)}; changes lost: "
        f"{len(one['changes_lost'])} of {one['changes']}. Of the translations:\n"
    )
    yield "| minute | answers | p50, ms | p99, ms | memory, MiB |\n| --- | --- | --- | --- | --- |"
    for number, minute in enumerate(one["minutes"], 1):
        yield (
            f"| {number} | {minute['answers']} | {minute['p50_ms']} | {minute['p99_ms']} | "
            f"{_numbers(minute['memory'])} |"
        )


def _errors(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {what}" for name, what in one["errors"].items() if what) or "none"


def _numbers(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _largest(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    name = max(seconds, key=lambda one: seconds[one])
    return f"{seconds[name]} ({name})"


def _list(values: list[float]) -> str:
    return ", ".join(str(value) for value in values)


if __name__ == "__main__":
    sys.exit(main())
