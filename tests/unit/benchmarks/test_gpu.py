"""The benchmark for a GPU, with a little of everything, on the CPU and without Ray."""

import contextlib
import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from benchmarks.gpu_pack import LEFT_OUT, PACKAGES, ROOT

RUN = """
import sys
sys.modules.update(dict.fromkeys({missing}))
from benchmarks.gpu import main
sys.exit(main())
"""


def with_what_they_need(*packages: str) -> set[str]:
    """The names of these packages and of all that they ask for."""
    names: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in names:
            names.add(name)
            with contextlib.suppress(PackageNotFoundError):
                waiting += [
                    re.split(r"[^\w.-]", line)[0]
                    for line in requires(name) or ()
                    if "extra ==" not in line
                ]
    return names


def not_on_a_machine_with_pytorch_alone() -> list[str]:
    """What is installed here, and neither packed nor there with PyTorch, NumPy and torchvision."""
    there = with_what_they_need("torch", "torchvision", "numpy")
    return [
        name
        for name, packages in packages_distributions().items()
        if not there & {re.sub(r"[-_.]+", "-", package).lower() for package in packages}
        and name not in (*PACKAGES, "seqvis", "benchmarks")
    ]


def test_all_code_is_packed_and_what_no_stage_needs_is_not() -> None:
    """Packing itself takes a minute."""
    code = [str(path.relative_to(ROOT)) for path in (ROOT / "seqvis").rglob("*.py")]
    assert "seqvis/translation/inflight.py" in code
    assert not [name for name in code if LEFT_OUT.search(name)]
    for name in ("pyarrow/libarrow_flight.so.2600", "pyarrow/tests/a.py", "seqvis/__pycache__/a"):
        assert LEFT_OUT.search(name)


@pytest.mark.slow
def test_all_stages_run_with_what_is_packed_and_pytorch_alone(tmp_path: Path) -> None:
    missing = not_on_a_machine_with_pytorch_alone()
    assert {"ray", "spacy", "nmslib", "pandas"} <= set(missing)
    out = tmp_path / "results"
    arguments = ["--device", "cpu", "--small", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(missing=missing), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.with_suffix(".json").read_text())
    assert not results["failed"]
    stages = [row["stage"] for row in results["rows"]]
    wanted = ("training", "greedy", "beam 5", "ResNet-50", "exact search")
    assert all(any(stage.startswith(name) for stage in stages) for name in wanted)
    assert all(row["rate"] > 0 for row in results["rows"])
    table = out.with_suffix(".md").read_text()
    assert table.startswith("CPU (")
    assert "seqvis (all), float32" in table
    assert "0 texts other than the CPU's" in table
