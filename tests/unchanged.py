"""What a rebuilding must not change, recorded from the outside and compared.

    python -m tests.unchanged record BEFORE --code CHECKOUT_OF_BEFORE
    python -m tests.unchanged record AFTER --given BEFORE
    python -m tests.unchanged compare BEFORE AFTER

`record` runs the commands of a checkout in an empty folder: every --help, the interface's document,
the small demo (one artifact of each kind), a training that is killed and goes on, translations in
every precision, searches, and a collection with a journal. With --given, the artifacts of another
record are translated with, searched and trained on as well; results go to `given/`. `compare` lists
all that differs, and ends with 1 if anything does.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

COMMANDS = (  # besides the jobs
    *("serve.app", "serve.config_check", "serve.environment", "serve.make_key"),
    *("tune.translator", "tune.devise", "tune.report"),
)
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
QUERIES = ("boat", "dog + boat", "snow - cold", "2 * horse - dog")
TRAINING = {
    "corpus": "demo/corpus",
    "epochs": 3,
    "model": {"embedding_size": 48, "hidden_size": 32},
    "batches": {"size": 32},
    "fit": {"precision": "float32", "checkpoint_minutes": 0.02},
}
SENTENCES = 200
_PORT = 8791
_SEGMENT = re.compile("segments/[0-9a-f]+/")  # named by chance


class Recorder:
    """Runs commands of one checkout inside one folder."""

    def __init__(self, folder: Path, code: Path):
        self.folder = folder
        self.code = code
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(code),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "COLUMNS": "100",
        }

    def run(self, *command: str, check: bool = True) -> str:
        """A command's standard output."""
        print("…", *command, file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout

    def has(self, command: str) -> bool:
        """Whether the checkout has this command: an older one may lack it."""
        path = self.code.joinpath(*command.split("."))
        return path.with_suffix(".py").is_file() or path.is_dir()

    @contextmanager
    def background(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "background.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                env=self._environment,
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.wait(120)

    def save(self, name: str, text: str) -> None:
        target = self.folder / "seen" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def record(recorder: Recorder, given: Path | None) -> None:
    jobs = sorted(file.stem for file in (recorder.code / "jobs").glob("[!_]*.py"))
    for command in (*(f"jobs.{job}" for job in jobs), *COMMANDS):
        if recorder.has(command):
            recorder.save(f"help/{command}", recorder.run(command, "--help"))
    demo = ["--pairs", "4000", "--epochs", "2", "--image-size", "64", "--num-workers", "1"]
    recorder.run("jobs.demo", "--out", "demo", "--no-serve", *demo)
    (recorder.folder / "training.yaml").write_text(json.dumps(TRAINING))
    train = ["jobs.train_translator", "--config", "training.yaml", "--num-workers", "0", "--out"]
    recorder.run(*train, "whole")
    with recorder.background(*train, "killed") as process:
        checkpoints = recorder.folder / "killed.run" / "checkpoints"
        while process.poll() is None and len(list(checkpoints.glob("step-*"))) < 2:
            time.sleep(0.01)
        process.kill()
    shutil.copytree(recorder.folder / "killed.run", recorder.folder / "interrupted")
    recorder.run(*train, "killed")
    use(recorder, "demo", "")
    recorder.run(
        "jobs.collection", "--collection", "demo/collection", "--delete", _some_id(recorder)
    )
    search(recorder, "demo", "journal/")
    recorder.save("openapi.json", _interface(recorder))
    if given:
        inside = recorder.folder / "given"
        shutil.copytree(given / "demo", inside / "demo")
        shutil.copytree(given / "interrupted", inside / "resumed.run")
        shutil.copy(given / "training.yaml", inside)
        Recorder(inside, recorder.code).run(*train, "resumed")
        use(recorder, "given/demo", "given/")


def use(recorder: Recorder, demo: str, to: str) -> None:
    """Translates with every precision and searches with the artifacts of a demo."""
    held_out = (recorder.folder / demo / "questions" / "heldout.fr").read_text().splitlines()
    (recorder.folder / "sentences.fr").write_text("\n".join(held_out[:SENTENCES]) + "\n")
    for precision in PRECISIONS:
        for beam in ("1", "5"):
            translate = ["--model", f"{demo}/translator", "--input", "sentences.fr"]
            more = ["--precision", precision, "--beam", beam, "--n-best", beam]
            text = recorder.run("jobs.translate", *translate, *more)
            recorder.save(f"{to}translations/{precision}-{beam}", text)
    search(recorder, demo, to)


def search(recorder: Recorder, demo: str, to: str) -> None:
    where = ["--collection", f"{demo}/collection", "--model", f"{demo}/devise"]
    where += ["--vectors", f"{demo}/vectors"]
    for number, query in enumerate(QUERIES):
        printed = recorder.run("jobs.search", *where, "--text", query, check=False)
        recorder.save(
            f"{to}searches/text-{number}", re.sub(r', "milliseconds": [^}]*', "", printed)
        )


def _some_id(recorder: Recorder) -> str:
    answer = json.loads((recorder.folder / "seen/searches/text-0").read_text().splitlines()[-1])
    identifier: str = answer["results"][0]["id"]
    return identifier


def _interface(recorder: Recorder) -> str:
    address = f"http://127.0.0.1:{_PORT}"
    models = ["--translator", "demo/translator", "--collection", "demo/collection"]
    with recorder.background("serve.app", *models, "--port", str(_PORT)) as process:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"{address}/openapi.json", timeout=5) as answer:
                    return json.dumps(json.load(answer), indent=1, sort_keys=True)
            except OSError:
                time.sleep(0.5)
    raise SystemExit("the server did not start: background.log")


def differences(before: Path, after: Path) -> Iterator[str]:
    """What is not the same, a line each."""
    names = {
        str(path.relative_to(before / "seen"))
        for path in (before / "seen").rglob("*")
        if path.is_file()
    }
    given = (after / "seen" / "given").is_dir()
    for name in sorted(names):
        yield from _same(name, _text(before, name), _text(after, name))
        if given and name.startswith(("translations/", "journal/")):
            text = _text(after, f"given/{name.removeprefix('journal/')}")
            yield from _same(f"given/{name}", _text(before, name), text)
    for name in ("demo/translator", "demo/devise", "whole", "killed"):
        weights = load_file(before / name / "model.safetensors")
        yield from _same_weights(name, weights, load_file(after / name / "model.safetensors"))
    if (after / "given" / "resumed").is_dir():
        weights = load_file(before / "whole" / "model.safetensors")
        resumed = load_file(after / "given" / "resumed" / "model.safetensors")
        yield from _same_weights("a checkpoint of before, resumed", weights, resumed)
    for manifest in sorted((before / "demo").rglob("manifest.json")):
        name = str(manifest.relative_to(before))
        if "checkpoints" not in name and "segments" not in name:
            yield from _same(name, _shape(manifest), _shape(after / name))


def _text(folder: Path, name: str) -> str:
    path = folder / "seen" / name
    return path.read_text(encoding="utf-8") if path.is_file() else "(missing)"


def _same(name: str, before: str, after: str) -> Iterator[str]:
    if before != after:
        lines = zip(before.splitlines(), after.splitlines(), strict=False)
        first = next((f"{a!r:.200} / {b!r:.200}" for a, b in lines if a != b), "one is longer")
        yield f"{name}: {first}"


def _same_weights(
    name: str, before: dict[str, np.ndarray], after: dict[str, np.ndarray]
) -> Iterator[str]:
    if before.keys() != after.keys():
        yield f"{name}: other tensors, {sorted(before.keys() ^ after.keys())}"
        return
    for key, tensor in before.items():
        if not np.array_equal(tensor, after[key]):
            yield f"{name}: {key} differs by up to {np.abs(tensor - after[key]).max():g}"


def _shape(manifest: Path) -> str:
    """A manifest's keys and the types of their values, without what depends on time and place."""

    def kind(value: Any) -> Any:
        if isinstance(value, dict):
            named = {_SEGMENT.sub("segments/", key): inner for key, inner in value.items()}
            return {key: kind(inner) for key, inner in sorted(named.items())}
        return type(value).__name__

    return json.dumps(kind(json.loads(manifest.read_text())), indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    commands = parser.add_subparsers(required=True, dest="command")
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--code", type=Path, default=Path.cwd())
    recording.add_argument("--given", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        given.out.mkdir(parents=True)
        record(Recorder(given.out.resolve(), given.code.resolve()), given.given)
        return
    lines = list(differences(given.before, given.after))
    print("\n".join(lines) or "nothing differs")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
