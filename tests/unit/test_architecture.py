"""The rules of the house: which file may import which, and how large files and folders may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("seqvis", "jobs", "serve", "tune", "benchmarks")
FLOORS = (
    ("jobs",),
    ("benchmarks",),
    ("serve.testing",),
    ("serve", "tune"),
    ("seqvis.library",),
    ("seqvis.cli",),
    ("seqvis.translation", "seqvis.search"),
    ("seqvis.decoding", "seqvis.devise"),
    ("seqvis.seq2seq", "seqvis.corpus", "seqvis.vectors", "seqvis.vision"),
    ("seqvis.text", "seqvis.training", "seqvis.collection", "seqvis.datasets"),
    ("seqvis.samples", "seqvis.plots", "seqvis.client"),
    ("seqvis",),
)
"""Packages, the highest first. A file imports from its own package and from lower floors."""

SERVING = (
    ("serve.app", "serve.config_check", "serve.make_key"),
    ("serve.applications", "serve.environment"),
    ("serve.replicas", "serve.proxy"),
    ("serve.gateway",),
    ("serve.common",),
)
"""The floors inside `serve`, to which all of it but `serve.testing` belongs."""

RAY = (
    *("seqvis.cluster", "seqvis.ray_internals", "seqvis.corpus.blocks", "seqvis.vision.embed"),
    *("seqvis.training.ray_train", "seqvis.training.stream", "seqvis.training.trial"),
    *("serve", "tune.study", "benchmarks"),
)
"""What may import Ray."""

LIGHT = (
    "seqvis",
    "seqvis.client",
    "seqvis.collection.items",
    "seqvis.collection.shards",
    "seqvis.search.requests",
    "serve.gateway.deployment",
    "serve.app",
    "jobs.search",
)
"""What a process imports that must start fast and stay small."""
HEAVY = ("torch", "nmslib", "ray.data")

LONGEST_FILE = 350
LARGEST_FOLDER = 14
LARGE_FOLDERS = ("jobs", "benchmarks")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax trees of all files with code, by module name."""
    trees = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if tree.body:
                trees[name] = tree
    return trees


@cache
def imports(name: str) -> frozenset[str]:
    """The modules and names that a module imports anywhere in it, type checking apart."""
    imported = set()
    tree = modules()[name]
    unchecked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unchecked:
            continue
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(imported)


def files(name: str) -> Iterator[str]:
    """The project's own modules among what a module imports."""
    for imported in imports(name):
        if imported.split(".")[0] in PACKAGES:
            own = imported if imported in modules() else imported.rpartition(".")[0]
            if own in modules() and own != name:
                yield own


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def package_of(name: str, floors: tuple[tuple[str, ...], ...]) -> tuple[int, str] | None:
    """The floor and the package that a module belongs to: the longest name that fits."""
    fitting = [
        (len(package), number, package)
        for number, floor in enumerate(floors)
        for package in floor
        if inside(name, package)
    ]
    return max(fitting)[1:] if fitting else None


def upward(floors: tuple[tuple[str, ...], ...]) -> set[str]:
    """Imports from another package that is not on a lower floor."""
    breaches = set()
    for name in modules():
        here = package_of(name, floors)
        for other in files(name):
            there = package_of(other, floors)
            if here and there and here != there and there[0] <= here[0]:
                breaches.add(f"{name} -> {other}")
    return breaches


def test_a_file_imports_from_its_package_or_from_lower_floors() -> None:
    assert not upward(FLOORS)


def test_inside_serve_all_rests_on_common() -> None:
    assert not upward(SERVING)


def test_benchmarks_are_imported_by_one_job_and_import_none() -> None:
    breaches = {
        f"{name} -> {other}"
        for name in modules()
        for other in files(name)
        if (inside(other, "benchmarks") and name.split(".")[0] not in ("benchmarks",))
        or (inside(name, "benchmarks") and inside(other, "jobs"))
    }
    assert not {breach for breach in breaches if not breach.startswith("jobs.benchmark ")}


def test_no_files_import_each_other_in_a_circle() -> None:
    circles: set[str] = set()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = path[path.index(name) :]
            start = circle.index(min(circle))
            circles.add(" -> ".join(circle[start:] + circle[:start]))
        elif name not in done:
            for other in sorted(files(name)):
                visit(other, (*path, name))
            done.add(name)

    for name in modules():
        visit(name, ())
    assert not circles


def test_only_some_files_know_ray() -> None:
    breaches = {
        f"{name} -> {imported}"
        for name in modules()
        for imported in imports(name)
        if inside(imported, "ray") and not any(inside(name, allowed) for allowed in RAY)
    }
    assert not breaches


def test_what_ray_does_not_offer_publicly_is_named_in_one_file() -> None:
    breaches = {
        f"{name} -> {imported}"
        for name in modules()
        for imported in imports(name)
        if inside(imported, "ray") and any(part.startswith("_") for part in imported.split("."))
    }
    breaches |= {f"{name} -> {method}" for name in modules() for method in private_of_ray(name)}
    assert not {at for at in breaches if not at.startswith("seqvis.ray_internals ")}


def private_of_ray(name: str) -> Iterator[str]:
    """The methods with a leading underscore in a module's classes that are derived from Ray's."""
    nodes = list(ast.walk(modules()[name]))
    of_ray = set()
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if inside(getattr(node, "module", None) or alias.name, "ray"):
                    of_ray.add(alias.asname or alias.name.split(".")[0])
    for node in nodes:
        if isinstance(node, ast.ClassDef) and of_ray.intersection(
            ast.unparse(base).split(".")[0] for base in node.bases
        ):
            methods = (method.name for method in node.body if isinstance(method, FUNCTIONS))
            yield from (method for method in methods if re.match("_[^_]", method))


def test_servers_and_load_for_tests_are_imported_by_benchmarks_alone() -> None:
    breaches = {
        f"{name} -> {other}"
        for name in modules()
        for other in files(name)
        if inside(other, "serve.testing")
        and name.split(".")[0] != "benchmarks"
        and not inside(name, "serve.testing")
    }
    assert not breaches


@pytest.mark.parametrize("name", LIGHT)
def test_what_must_start_fast_loads_nothing_heavy(name: str) -> None:
    loaded = f"import sys, {name}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_no_file_and_no_folder_is_too_large() -> None:
    breaches = set()
    folders: dict[Path, int] = {}
    for name in modules():
        folder = ROOT.joinpath(*name.split("."))
        path = folder.with_suffix(".py")
        path = path if path.is_file() else folder / "__init__.py"
        folders[path.parent] = folders.get(path.parent, 0) + 1
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE:
            breaches.add(str(path.relative_to(ROOT)))
    for folder, count in folders.items():
        short = str(folder.relative_to(ROOT))
        if count > LARGEST_FOLDER and short not in LARGE_FOLDERS:
            breaches.add(f"{short}/")
    assert not breaches
