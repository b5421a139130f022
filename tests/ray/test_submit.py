"""Jobs sent to a cluster as the documents say: `make submit`, a token, files in a bucket."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from seqvis.artifacts import MANIFEST, load
from seqvis.samples.questions import generate_pairs
from serve.environment import ENVIRONMENT
from tests.support.objectstore import make_bucket
from tests.support.processes import children_named
from tests.support.rayhead import BIN, Head, ray_head
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = "--model.embedding-size 32 --model.hidden-size 24 --fit.precision float32 --samples 0"


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> Any:
    """A bucket with questions in two files."""
    filled = make_bucket(s3_endpoint, "cluster")
    pairs = generate_pairs(700, seed=1)
    for side, language in enumerate(("fr", "en")):
        filled.put(f"my.{language}", "".join(f"{pair[side]}\n" for pair in pairs).encode())
    return filled


@pytest.fixture(scope="module")
def head(bucket: Any) -> Iterator[Head]:
    """It has the image's environment."""
    with ray_head({**ENVIRONMENT, **bucket.environment}) as running:
        yield running


@pytest.fixture(scope="module")
def corpus(head: Head) -> str:
    """The questions as a corpus in the bucket, made by a job."""
    texts = "--source s3://cluster/my.fr --target s3://cluster/my.en"
    flags = f"{texts} --source-lang fr --target-lang en --out s3://cluster/corpus"
    prepared = submit(head, f"prepare_corpus {flags}", "prepare")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    assert result_of(head, "prepare")["train_pairs"] > 500
    return "s3://cluster/corpus"


def submit(head: Head, job: str, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """`make submit`, in the environment that these tests run in."""
    venv = BIN.parent
    command = ["make", "-C", str(ROOT), "-o", f"{venv}/installed", "submit", f"VENV={venv}"]
    chosen = " ".join((f"--submission-id {name}", *flags))
    return run([*command, f"JOB={job}", f"SUBMIT_ARGS={chosen}"], head.environment)


def run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def stop(head: Head, name: str) -> None:
    """What `ray job stop` asks for; it takes seconds to start, and the job would have ended."""
    token = Path(head.environment["HOME"], ".ray", "auth_token").read_text().strip()
    jobs, who = f"{head.address}/api/jobs/{name}", {"Authorization": f"Bearer {token}"}
    assert requests.post(f"{jobs}/stop", headers=who, timeout=60).json() == {"stopped": True}

    def ended() -> bool:
        status = requests.get(jobs, headers=who, timeout=60).json()["status"]
        return status not in ("PENDING", "RUNNING")

    wait_until(ended, "it goes on")


def result_of(head: Head, name: str) -> dict[str, Any]:
    """The last line of the job's log."""
    return dict(json.loads(log_files(head)[name].strip().splitlines()[-1]))


def log_files(head: Head) -> dict[str, str]:
    """The logs of all jobs as they grow, by their names."""
    logs = Path(head.environment["HOME"], "ray", "session_latest", "logs").glob("job-driver-*.log")
    return {path.stem.removeprefix("job-driver-"): path.read_text() for path in logs}


def test_without_the_token_nothing_is_told_and_nothing_runs(head: Head) -> None:
    strange = head.strangers_environment
    for words in (["list"], ["submit", "--", "python", "-c", "print(1)"]):
        refused = run([str(BIN / "ray"), "job", *words], strange)
        assert refused.returncode != 0
        assert "401" in refused.stderr or "uthenticat" in refused.stderr
    assert log_files(head) == {}


def test_preparation_training_and_evaluation_run_on_the_cluster(
    head: Head, bucket: Any, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "s3://cluster/translator"
    training = (
        f"train_translator --corpus {corpus} --out {out} --epochs 4 --batches.size 16 {SMALL}"
    )
    training += " --num-workers 1 --cpus-per-worker 1"
    assert submit(head, training, "first", "--no-wait").returncode == 0

    def saved() -> bool:
        paths = bucket.paths()
        return any("/checkpoints/" in path and path.endswith(MANIFEST) for path in paths)

    wait_until(saved, "it saves no checkpoint", 120)
    stop(head, "first")
    assert "error: stopped; earlier results are intact" in log_files(head)["first"]
    assert "Traceback" not in log_files(head)["first"]
    wait_until(lambda: not children_named("RayTrainWorker", head.process), "a worker goes on", 30)

    assert submit(head, training, "second").returncode == 0
    assert f"going on from {out}.run/checkpoints/" in log_files(head)["second"]
    assert result_of(head, "second")["out"] == out
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    assert load(out, "translator").metrics["bleu"] >= 0

    evaluation = submit(head, f"evaluate_translator --model {out} --corpus {corpus}", "evaluate")
    assert evaluation.returncode == 0
    assert 0 <= result_of(head, "evaluate")["bleu"] <= 100


def test_a_search_runs_on_the_cluster_and_ends_with_its_report(
    head: Head, bucket: Any, corpus: str
) -> None:
    search = f"tune.translator --corpus {corpus} --space tune/spaces/multi30k.yaml {SMALL}"
    search += " --out s3://cluster/search --algorithm tpe --trials 2 --epochs 1 --num-workers 0"
    search += " --max-concurrent 1 --cpus-per-worker 1"  # in one process: each starts for seconds
    done = submit(head, search, "search")
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_of(head, "search")
    assert (result["finished"], result["failed"]) == (2, 0)
    assert result["report"] == "s3://cluster/search/report.html"
    assert b"<html" in bucket.get("search/report.html")


def test_a_job_that_fails_says_so_to_who_submitted_it(head: Head) -> None:
    failed = submit(head, "train_translator --corpus s3://cluster/nothing --out o", "failing")
    assert failed.returncode != 0
    assert "error: s3://cluster/nothing: no such corpus" in failed.stdout


def test_make_submit_explains_itself() -> None:
    refused = run(
        ["make", "-C", str(ROOT), "-o", ".venv/installed", "submit"], {"PATH": "/usr/bin:/bin"}
    )
    assert refused.returncode != 0
    assert 'make submit JOB="NAME --flags"' in refused.stderr + refused.stdout
