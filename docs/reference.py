"""Write the reference of seqvis from its docstrings, as `make docs` does: HTML in build/reference.

    python docs/reference.py [FOLDER]

The first page has the names that `import seqvis` offers; from there all modules are reached.
"""

import sys
from pathlib import Path
from pkgutil import walk_packages

import pdoc
import pdoc.render

import seqvis

ROOT = Path(__file__).parents[1]
LEFT_OUT = "seqvis.native"  # the compiled extension has no docstrings


def write_reference(folder: Path) -> None:
    """Write a page for each module. Raises what a module raises that cannot be imported."""
    for name in seqvis.__all__:  # pdoc looks at what a module has, not at what it would load
        setattr(seqvis, name, getattr(seqvis, name))
    # All by name, since pdoc passes over the modules of a package that has a list of public names.
    names = [module.name for module in walk_packages(seqvis.__path__, "seqvis.")]
    parts = [name for name in names if not name.startswith(LEFT_OUT)]
    pdoc.render.configure(
        docformat="google", show_source=False, footer_text=f"seqvis {seqvis.__version__}"
    )
    pdoc.pdoc("seqvis", *parts, output_directory=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "reference"
    write_reference(target)
    print(f"{target / 'index.html'}")  # noqa: T201
