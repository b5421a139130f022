"""The benchmark for a GPU, with a little of everything, on the CPU and without Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_pack import LEFT_OUT, ROOT

RUN = "import sys; sys.modules['ray'] = None; from benchmarks.gpu import main; sys.exit(main())"


def test_all_code_is_packed_and_what_no_stage_needs_is_not() -> None:
    """Packing itself takes a minute."""
    code = [str(path.relative_to(ROOT)) for path in (ROOT / "seqvis").rglob("*.py")]
    assert "seqvis/translation/inflight.py" in code
    assert not [name for name in code if LEFT_OUT.search(name)]
    for name in ("pyarrow/libarrow_flight.so.2600", "pyarrow/tests/a.py", "seqvis/__pycache__/a"):
        assert LEFT_OUT.search(name)


@pytest.mark.slow
def test_all_stages_run_where_ray_cannot_be_imported(tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = ["--device", "cpu", "--small", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], env=environment, capture_output=True, text=True
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
