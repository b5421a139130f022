"""The Ray of a job: what a user is told when there is none to be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RAY_TMPDIR": "/proc/nowhere"}, "Ray did not start on this machine"),
        ({"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS=127.0.0.1:1: no Ray answers"),
        ({"RAY_ADDRESS": "auto", "RAY_TMPDIR": "/proc"}, "RAY_ADDRESS=auto: no Ray was started"),
    ],
)
def test_a_job_without_a_ray_ends_with_one_message(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    for language in ("fr", "en"):
        (tmp_path / language).write_text("un deux trois\n" * 20, encoding="utf-8")
    flags = f"--source {tmp_path}/fr --target {tmp_path}/en --source-lang fr --target-lang en"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.prepare_corpus", *flags.split(), "--out", tmp_path / "out"],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1
    assert said in complaints[0]
    assert not (tmp_path / "out").exists()
