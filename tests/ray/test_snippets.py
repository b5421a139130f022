"""Every snippet of the documents: run as it stands there, or listed with why it is not.

The reader's folder has small data under the names that the documents use. Jobs are called in this
process, where Ray stands already; what else a snippet has is run by bash. The commands of
docs/results made its figures in hours; here they run with flags that make them small.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from string import Template
from textwrap import dedent

import pytest
import yaml

from jobs.__main__ import MODULES
from seqvis.samples.questions import generate_pairs
from serve.app import free_port
from serve.testing.server import run_config
from tests.support.hub import hub_for_jobs
from tests.support.searching import draw

ROOT = Path(__file__).parents[2]
IN_ORDER = [
    ROOT / "docs/search/pictures.md",  # before a server writes to the collection
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("train/decoding.md", "search/collections.md")),
    ROOT / "docs/train/tuning.md",
    ROOT / "docs/operate/server.md",
]
"""Documents whose snippets make what those of later ones need."""
RESULTS = [
    ROOT / "docs/results" / f"{name}.md"
    for name in ("pictures", "translation", "lesson", "serving", "speed", "scaling")
]
DOCUMENTS = [
    *IN_ORDER,
    *sorted({ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")} - {*IN_ORDER, *RESULTS}),
]

NOT_RUN = {
    r"^serve deploy serve/config/gpu": "needs a cluster; tests/faults/test_scaling.py deploys it",
    r"^serve \w+ -a http://HEAD": "needs a cluster",
    r"GATEWAY": "needs a gateway elsewhere; the README's and the local ones are run",
    r"^seqvis fetch-data": "needs the network; tests/unit/datasets/test_fetch.py",
    r"^cd gpu |benchmarks\.gpu": "needs a machine with a GPU",
    r"s3://bucket/": "needs a bucket",
    r"^optuna-dashboard": "serves until Ctrl-C; tests/unit/tune/test_optuna_storage.py",
    r"ray job (submit|list)": "needs a cluster; tests/ray/test_submit.py submits to one",
    r"^ray (up|down|dashboard)": "needs a cloud",
    r"^ray start|ray start --head|&& ray start …": "leaves a Ray on this machine",
    r"(^|\s)(docker|kubectl|aws) ": "needs an account of a cloud, or a cluster",
    r"^source \.venv": "the tests run in this environment",
    r"pre-commit install": "changes the clone",
    r"^install -d .*/srv/ray": "makes a folder outside of the reader's",
    r"^seqvis train-translator … ": "the reader fills in the flags",
    r"session_latest/logs": "looks into the logs of a server in production",
    r"^sed 's\|/shared|^seqvis config-check my\.yaml|^serve deploy my\.yaml": (
        "names artifacts on a shared disk; tests/unit/serve/test_config_check.py"
    ),
    r"^seqvis demo": "tests/ray/test_stranger.py runs the demo in small",
    r"^python3 -m venv|^pip install": "installs everything; tests/ray/test_stranger.py does",
    r"benchmarks\.(finetuning|growth|scaling |serving|bulk|faults|two_nodes|hour)": (
        "measures trainings or servers for minutes or hours"
    ),
    r"\$F\b|^F=|W\.pth": "tests/ray/test_nodes.py compares one worker with several",
    r"year >= 2020|2010 <= year": "needs pictures of years; tests/unit/collection/test_filters.py",
}
"""Commands that are not run, by what they look like, and why."""

SMALLER = {
    r"--find-lr": "--finder.steps 30 --num-workers 0",
    r"--out runs/(a|b|back|second|warm|more|tracked|encoder|decoder)\b": (
        "--num-workers 0 --epochs 1"
    ),
    r"train[-_]devise": "--epochs 3",
    r"tune[-_]translator": "--epochs 1 --trials 2",
    r"tune[-_]devise": "--epochs 2 --trials 2",
    r"--config runs/search/best.yaml": "--epochs 1 --num-workers 0",
    r"--min-confidence": "--min-confidence 0",
}
"""Flags that make a command take seconds, or fit a model that was trained for seconds."""

SMALLER_RESULTS = {
    r"train[-_]translator|pretrain\b": "--epochs 1 --num-workers 0",
    r"train[-_]devise": "--epochs 2 --num-workers 0 --calibration.folds 2",
    r"tune[-_]translator": "--epochs 1 --grace 1 --trials 2",
    r"lesson11-translator": "--model.embedding-size 50",
    r"--sentencepiece-size": "--sentencepiece-size 300",
    r"^N=": "N=100",
    r"few_pictures": "--labels 6 --pictures 6",
    r"stage_neighbours": "--items 500 --features 200",
    r"stage_translating": "--outputs 100 --rounds 1",
    r"--kills": "--kills 2",
}
"""The same for docs/results, whose commands are of days rather than minutes."""


def blocks(document: Path, language: str) -> list[str]:
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^ *```{language}\n(.*?)^ *```$", text)


def commands(document: Path) -> list[str]:
    """The commands of a document's blocks: a line, with those that continue it, or a loop."""
    found: list[str] = []
    for block in blocks(document, "sh"):
        joined = dedent(block).replace("\\\n", " ")
        found += re.findall(r"(?ms)^for .*?^done$|^[^\n]*<<END$.*?^END$|^[^\n]*\S[^\n]*$", joined)
    return found


@cache
def reason(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


def test_nothing_is_left_out_that_no_document_has() -> None:
    everything = [command for document in DOCUMENTS + RESULTS for command in commands(document)]
    assert len(everything) > 140
    for pattern in (*NOT_RUN, *SMALLER, *SMALLER_RESULTS):
        assert any(re.search(pattern, command) for command in everything), pattern
    run = [command for command in everything if not reason(command)]
    assert len(run) > 100


@pytest.mark.parametrize(
    "document", DOCUMENTS + RESULTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_settings_and_answers_that_a_document_shows_are_well_formed(document: Path) -> None:
    for block in blocks(document, "yaml"):
        assert yaml.safe_load(block)
    for block in blocks(document, "json"):
        assert json.loads(re.sub(r"(, )?…", "", block))  # which stands for more of the same


class Reader:
    """Somebody who types what the documents say, in a folder of their own."""

    smaller = SMALLER

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], closing: ExitStack):
        self.folder = folder
        self.capsys = capsys
        self.closing = closing
        self.address = ""  # of the server, once it was started
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    def follow(self, document: Path) -> None:
        for command in commands(document):
            if reason(command) is None:
                self.type(command)

    def type(self, command: str) -> None:
        if loop := re.fullmatch(r"for (\w+) in ([\w ]+); do (seqvis .*); done", command):
            for value in loop[2].split():
                self.environment[loop[1]] = value
                self.type(loop[3])
            return
        more = [flags for pattern, flags in self.smaller.items() if re.search(pattern, command)]
        if re.fullmatch(r"(\w+=\w+ *)+(#.*)?", command):
            words = shlex.split(f"{command.partition('#')[0]} {' '.join(more)}")
            self.environment |= dict(word.split("=") for word in words)
            return
        if named := re.match(r"seqvis ([a-z][\w-]*)(.*)", command, re.DOTALL):
            command = f"python -m {MODULES[named[1]]}{named[2]}"
        command = re.sub(r"^seqvis (?=--)", "python -m jobs ", command)
        if re.match(r"([A-Z_]+=\w+ )?make ", command):
            # What it would do; each target has tests of its own.
            dry = f"make --dry-run --always-make -C {ROOT} "
            self.bash(re.sub(r"\bmake ", dry, command, count=1))
        elif command.startswith("python -m serve.app"):
            self.serve(shlex.split(command, comments=True)[1:])
        elif re.fullmatch(r"python -m (jobs|tune)\.[^>|&\n]*", command):
            filled = Template(command).safe_substitute(self.environment)
            self.job(shlex.split(filled, comments=True)[2:] + shlex.split(" ".join(more)))
        else:
            local = command.replace("localhost:8000", self.address).replace(
                '"/models/', f'"{self.folder}/runs/'
            )
            self.bash(" ".join([local.replace("curl ", "curl -sS --fail-with-body ", 1), *more]))

    def job(self, words: list[str]) -> None:
        self.capsys.readouterr()
        code = importlib.import_module(words[0]).main(words[1:])
        printed = self.capsys.readouterr()
        assert code == 0, f"{shlex.join(words)}\n{printed.err}"
        if words[0] != "jobs.translate":
            assert json.loads(printed.out.splitlines()[-1]), words

    def bash(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def serve(self, words: list[str]) -> None:
        for name in ("new", "attn"):  # what the README and later pages call it
            shutil.copytree(self.folder / "runs/translator", self.folder / "runs" / name)
        port = free_port()
        given = [f"{self.folder}/{word}" if word.startswith("runs/") else word for word in words]
        command = [sys.executable, *given, "--port", str(port)]
        settings = {"http_options": {"port": port}}
        running = run_config(settings, self.folder / "logs", command=command)
        self.address = self.closing.enter_context(running).address


@pytest.fixture
def reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    """One with my.fr and my.en, the same as my.csv, more.fr and more.en, photos/LABEL/FILE and
    some photos, and a hub."""
    pairs = sorted(generate_pairs(1200, seed=1), key=lambda pair: len(pair[0]))[:200]
    for side, language in enumerate(("fr", "en")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        for name in ("my", "more"):
            (tmp_path / f"{name}.{language}").write_text(text, encoding="utf-8")
    rows = "".join(f'"{french}","{english}"\n' for french, english in pairs)
    (tmp_path / "my.csv").write_text(f"fr,en\n{rows}", encoding="utf-8")
    for kind, label in enumerate(("dog", "boat", "fire truck", "n07739125")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(16):
            (tmp_path / "photos" / label / f"{number}.jpg").write_bytes(draw(kind, number))
    for number, name in enumerate(("photo", "a", "b", "photos/1", "photos/2")):
        (tmp_path / f"{name}.jpg").write_bytes(draw(1, 99 + number))
    (tmp_path / ".local/share/bash-completion/completions").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with ExitStack() as closing:
        closing.enter_context(hub_for_jobs(tmp_path / "cache"))
        yield Reader(tmp_path, capsys, closing)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_cluster")
def test_what_the_documents_say_to_type_works(reader: Reader) -> None:
    for document in DOCUMENTS:
        if document.name == "server.md":
            (reader.folder / "backups").mkdir()
        reader.follow(document)
    for document in DOCUMENTS:  # each block is a program of its own
        for block in blocks(document, "python"):
            local = block.replace("http://127.0.0.1:8000", reader.address)
            exec(compile(local, f"{document.name}, a block of Python", "exec"), {})
    for picture in ("runs/attention.png", "runs/found.png", "runs/page.html", "attention.png"):
        assert (reader.folder / picture).exists(), picture
    keys = yaml.safe_load((reader.folder / "keys.yaml").read_text())
    assert [entry["name"] for entry in keys] == ["alice", "curator", "deployer"]


@pytest.fixture
def measuring(reader: Reader) -> Reader:
    """One with a little of the texts and pictures that docs/results has in `$D`."""
    (reader.folder / "docs/images").mkdir(parents=True)
    data = reader.folder / "data-sets"
    parts = {
        "multi30k/train": slice(150),
        "multi30k/val": slice(150, 200),
        "tatoeba/tatoeba": slice(200),
    }
    for name, lines in parts.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        for side in ("fr", "en"):
            text = (reader.folder / f"my.{side}").read_text(encoding="utf-8").splitlines(True)
            (data / f"{name}.{side}").write_text("".join(text[lines]), encoding="utf-8")
    shutil.copy(reader.folder / "my.en", reader.folder / "text.en")
    seen = ["n07747607", "n02802426", "n03179701", "n07753592", "n07873807", "n01910747"]
    for kind, label in enumerate([*seen, "n02666196"]):
        for part in ("train", "valid"):
            (data / "tiny-imagenet" / part / label).mkdir(parents=True)
            for number in range(8):
                picture = data / "tiny-imagenet" / part / label / f"{part}-{number}.jpg"
                picture.write_bytes(draw(kind % 4, 8 * kind + number))
    (data / "imagenet-sample").mkdir()
    names = ("n02110063_malamute", "n02066245_grey_whale", "n02687172_aircraft_carrier")
    for kind, name in enumerate([*names, *(f"{label}_{label}" for label in seen)]):
        picture = data / "imagenet-sample" / f"{name}.JPEG"
        picture.write_bytes(draw(kind % 4, kind))
    for name, target in (
        ("multi30k-en-fr", "multi30k-fr-en"),
        ("lesson/corpus", "multi30k-fr-en"),
        ("lesson/features", "tiny-train"),
        ("lesson/vectors-en", "glove"),
        ("lesson/vectors-fr", "glove"),
    ):
        link = reader.folder / "runs" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(reader.folder / "runs" / target)
    reader.environment |= {"D": str(data)}
    reader.environment |= {"VARIANT": "attn", "READOUT": "context", "DEVIATION": "0.1"}
    reader.smaller = SMALLER_RESULTS
    return reader


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_cluster")
def test_what_made_the_results_works_in_small(measuring: Reader) -> None:
    for document in RESULTS:
        measuring.follow(document)
    for name in ("sum.png", "search-multi10k/best.yaml", "en-fr-back/manifest.json"):
        assert (measuring.folder / "runs" / name).exists(), name
