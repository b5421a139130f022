"""What `import seqvis` offers, and that it costs next to nothing."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import seqvis

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", seqvis.__all__)
def test_each_name_is_there(name: str) -> None:
    assert callable(getattr(seqvis, name))


@pytest.mark.parametrize("name", seqvis.__all__)
def test_each_name_and_all_that_it_offers_is_documented(name: str) -> None:
    offered = getattr(seqvis, name)
    assert inspect.getdoc(offered)
    if inspect.isclass(offered) and not issubclass(offered, Exception):
        public = [member for member in dir(offered) if not member.startswith("_")]
        assert not [member for member in public if not inspect.getdoc(getattr(offered, member))]


def test_the_names_are_listed() -> None:
    assert set(seqvis.__all__) <= set(dir(seqvis))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="translater"):
        _ = seqvis.translater


def test_importing_it_loads_nothing_of_it() -> None:
    program = "import sys, seqvis; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert not [name for name in loaded if name.startswith("seqvis.") or name in ("torch", "ray")]
