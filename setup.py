"""Builds `seqvis/native`; what else there is to say about the project stands in pyproject.toml.

Where PyTorch or a C++20 compiler is missing, pip installs the project without it, which then uses
PyTorch and NumPy alone (docs/extend/native.md).
"""

import sys
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("seqvis", "native")
MATCHES = SOURCES / "matches.cpp"  # a library of its own, since seqvis.native loads PyTorch


def extensions() -> list[Extension]:
    modules = []
    with suppress(ImportError):
        import pybind11

        include = {"include_dirs": [pybind11.get_include()]}
        modules.append(extension("seqvis.collection.matches", [MATCHES], **include))
    with suppress(ImportError):
        from torch.utils import cpp_extension

        sources = sorted(set(SOURCES.glob("*.cpp")) - {MATCHES})
        torch = {
            "depends": sorted(map(str, SOURCES.glob("*.h"))),
            "include_dirs": cpp_extension.include_paths(),  # pybind11's headers are there as well
            "library_dirs": cpp_extension.library_paths(),
            "libraries": ["torch_python", "torch", "torch_cpu", "c10"],
        }
        modules.append(extension("seqvis.native.library", sources, **torch))
    return modules


def extension(name: str, sources: list[Path], **options: list[str]) -> Extension:
    return Extension(
        name,
        list(map(str, sources)),
        language="c++",
        # No -march: loops are compiled for several processors (kernels.cpp). Python's own
        # flags have -fwrapv, which keeps loops from being vectorised.
        extra_compile_args=[
            *("-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-fno-wrapv"),
            *("-fopenmp-simd", "-ffp-contract=fast", "-mprefer-vector-width=512"),
        ],
        optional="build_ext" not in sys.argv,  # `make native` fails where a source does not compile
        **options,
    )


setup(ext_modules=extensions())
