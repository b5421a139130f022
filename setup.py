"""Builds `seqvis/native`; what else there is to say about the project stands in pyproject.toml.

Where PyTorch or a C++20 compiler is missing, the project is installed without it, and decodes with
PyTorch alone (docs/extend/native.md).
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("seqvis", "native")


def extensions() -> list[Extension]:
    try:
        from torch.utils import cpp_extension
    except ImportError:
        return []
    return [
        Extension(
            "seqvis.native.library",
            sorted(map(str, SOURCES.glob("*.cpp"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            include_dirs=cpp_extension.include_paths(),  # pybind11's headers are there as well
            library_dirs=cpp_extension.library_paths(),
            libraries=["torch_python", "torch", "torch_cpu", "c10"],
            language="c++",
            # No -march: loops are compiled for several processors (kernels.cpp). Python's own
            # flags have -fwrapv, which keeps loops from being vectorised.
            extra_compile_args=[
                *("-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-fno-wrapv"),
                *("-fopenmp-simd", "-ffp-contract=fast", "-mprefer-vector-width=512"),
            ],
            optional=True,
        )
    ]


setup(ext_modules=extensions())
