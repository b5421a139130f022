"""What `import seqvis` offers, and that it costs next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import seqvis

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", seqvis.__all__)
def test_each_name_is_there_and_listed(name: str) -> None:
    assert callable(getattr(seqvis, name))
    assert name in dir(seqvis)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="translater"):
        _ = seqvis.translater


def test_importing_it_loads_nothing_of_it() -> None:
    program = "import sys, seqvis; print(*(name for name in sys.modules if name > 'seqvis.'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not [name for name in done.stdout.split() if name.startswith("seqvis.")]
