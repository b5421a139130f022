"""The C++ extension, where it was built (docs/extend/native.md); else `library` is None."""

import os
from functools import cache
from typing import TYPE_CHECKING

import torch  # noqa: F401  its libraries are the extension's

if TYPE_CHECKING:
    from seqvis.native import library as library
else:
    try:
        from seqvis.native import library

        library.cross_entropy  # noqa: B018  what was built from older sources lacks it
    except (ImportError, AttributeError):
        library = None


def is_native(precision: str) -> bool:
    """Return whether the extension was built, has products of this precision for this processor,
    and is not switched off by SEQVIS_NATIVE=0 in the environment."""
    return library is not None and os.environ.get("SEQVIS_NATIVE") != "0" and _supports(precision)


@cache
def _supports(precision: str) -> bool:
    kind = getattr(library.Precision, precision, None)
    return kind is not None and library.supports(kind)
