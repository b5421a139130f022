"""Pack what `benchmarks.gpu` needs besides PyTorch, as one archive of some 30 MB.

    python -m benchmarks.gpu_pack FOLDER

It takes the packages from this Python, so the other machine's must be of the same version.
"""

import platform
import re
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = (
    "seqvis",
    *(f"benchmarks/{name}.py" for name in ("__init__", "gpu", "gpu_questions", "peers")),
)
PACKAGES = (
    *("pyarrow", "pydantic", "pydantic_core", "annotated_types", "typing_inspection", "yaml"),
    *("typing_extensions", "safetensors", "sacrebleu", "portalocker", "colorama", "tabulate"),
    "lxml",
)
LEFT_OUT = re.compile(r"__pycache__|/tests/|/include/|^pyarrow/[^/]*flight|\.(pyx|pxd|pyi|h|a)$")


def pack(folder: Path) -> Path:
    """Write FOLDER/seqvis.tar.xz and return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "seqvis.tar.xz"
    with tarfile.open(target, "w:xz", preset=4) as archive:

        def add(path: Path, name: str) -> None:
            archive.add(
                path, name, filter=lambda member: None if LEFT_OUT.search(member.name) else member
            )

        for name in CODE:
            add(ROOT / name, name)
        for name in PACKAGES:
            spec = find_spec(name)
            if spec is None or spec.origin is None:
                raise SystemExit(f"{name} is not installed; pip install it first")
            path = Path(spec.origin)
            path = path.parent if path.name == "__init__.py" else path
            add(path, path.name)
    return target


if __name__ == "__main__":
    print(f"{pack(Path(sys.argv[1]))}, for Python {platform.python_version()}")
