"""The reference that `make docs` writes from the docstrings."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seqvis

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_reference_begins_with_the_public_names_and_reaches_all_modules(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/reference.py", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "does not resolve" not in done.stderr
    page = (tmp_path / "seqvis.html").read_text(encoding="utf-8")
    for name in seqvis.__all__:
        assert f'id="{name}"' in page
        first = (inspect.getdoc(getattr(seqvis, name)) or "").split("\n\n")[0].split()
        assert " ".join(first[:4]) in re.sub(r"<[^>]+>", "", page)
    assert 'id="Translator.translate"' in page
    modules = {
        path.relative_to(ROOT).with_suffix(".html")
        for path in (ROOT / "seqvis").rglob("[!_]*.py")
        if "native" not in path.parts
    }
    assert len(modules) > 150
    missing = {str(module) for module in modules if not (tmp_path / module).exists()}
    assert not missing
