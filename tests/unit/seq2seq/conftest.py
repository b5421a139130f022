"""Both ways to train: with the C++ extension, and without it."""

import pytest

from seqvis.native import is_native


@pytest.fixture(params=["native", "PyTorch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyTorch":
        monkeypatch.setenv("SEQVIS_NATIVE", "0")
    elif not is_native("float32"):
        pytest.skip("seqvis/native was not built, or is switched off: make native")
