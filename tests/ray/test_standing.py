"""Jobs on a Ray that stands, as `make ray` starts it: they join it and leave it running."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.material import StandingRay, standing_ray
from seqvis.samples.questions import generate_pairs

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = "--model.embedding-size 32 --model.hidden-size 24 --fit.precision float32 --samples 0"


@pytest.fixture(scope="module")
def standing() -> Iterator[StandingRay]:
    with standing_ray("--num-cpus=4") as ray:
        yield ray


def processes(standing: StandingRay) -> dict[int, psutil.Process]:
    return {process.pid: process for process in standing.process.children(recursive=True)}


def test_jobs_join_it_and_leave_it_running(standing: StandingRay, tmp_path: Path) -> None:
    for side, language in enumerate(("fr", "en")):
        text = "".join(f"{pair[side]}\n" for pair in generate_pairs(700, seed=1))
        (tmp_path / language).write_text(text, encoding="utf-8")
    texts = f"--source {tmp_path}/fr --target {tmp_path}/en --source-lang fr --target-lang en"
    training = f"--corpus {tmp_path}/corpus --out {tmp_path}/out {SMALL} --epochs 1 --num-workers 2"
    explicit = {"RAY_AUTH_MODE": "token"}
    watched = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}  # as on a cluster
    before = processes(standing)
    for job, more in (
        (f"jobs.prepare_corpus {texts} --out {tmp_path}/corpus --address auto", {}),
        (f"jobs.train_translator {training} --address {standing.address}", explicit | watched),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *job.split()],
            cwd=ROOT,
            env={**standing.environment, **more},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "PreemptionWatcher" not in done.stderr
        assert "error:" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["out"] == f"{tmp_path}/out"
    assert before.keys() <= processes(standing).keys()


def test_it_listens_on_the_loopback_interface_alone(standing: StandingRay) -> None:
    ports = {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in processes(standing).values()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", int(standing.address.rpartition(":")[2])) in ports
    assert {host for host, _ in ports} <= {"127.0.0.1", "::1"}


ENDED = """
import os, sys
from seqvis.cluster import ray_session
with ray_session(address=sys.argv[1]):
    os._exit(1)
"""


def test_a_job_that_ray_ends_has_a_last_word(standing: StandingRay) -> None:
    """After Ctrl-C at `make ray`, Ray's library leaves the processes that joined it like this."""
    done = subprocess.run(
        [sys.executable, "-c", ENDED, standing.address],
        cwd=ROOT,
        env={**standing.environment, "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "error: Ray, or this job, was ended; earlier results are intact" in done.stderr


HANDLED = """
import signal, sys
from seqvis.cluster import ray_session
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
with ray_session(address=sys.argv[1]):
    signal.raise_signal(signal.SIGTERM)
signal.raise_signal(signal.SIGTERM)
"""


def test_a_job_that_has_left_ray_still_cleans_up_when_it_is_stopped(standing: StandingRay) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLED, standing.address],
        cwd=ROOT,
        env={**standing.environment, "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "handled"]), done.stderr
