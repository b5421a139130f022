"""Compiles nmslib for processors with AVX2, because the registry's wheels are for SSE2.

    python build_nmslib.py FOLDER

writes a wheel to FOLDER. install.sh calls it beside its downloads, and keeps the registry's wheel
where it fails. The source is that of requirements.lock, by its hash. Only what the project uses is
compiled, the graph HNSW over Euclidean distances: 40 s of one core instead of four minutes. The
version says so: 2.1.2+avx2. AVX-512 would gain nothing, as nmslib's loops are written for AVX.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).with_name("requirements.lock")
NEEDED = {
    *("nmslib.cc", "cpu_feature_guard.cc", "cpu_info.cc", "init.cc", "hnsw.cc"),
    *("hnsw_distfunc_opt.cc", "distcomp_l2sqr_sift.cc", "distcomp_lp.cc", "knnquery.cc"),
    *("logging.cc", "query.cc", "space.cc", "space_l2sqr_sift.cc", "space_lp.cc"),
    *("space_vector.cc", "utils.cc"),
}
INIT = """\
#include "init.h"

#include "factory/method/hnsw.h"
#include "factory/space/space_lp.h"
#include "logging.h"
#include "methodfactory.h"
#include "spacefactory.h"

namespace similarity {

int defaultRandomSeed = 0;
thread_local std::unique_ptr<RandomGeneratorType> randomGen;

void initLibrary(int seed, LogChoice choice, const char* path) {
  defaultRandomSeed = seed;
  InitializeLogger(choice, path);
  REGISTER_SPACE_CREATOR(float, SPACE_L2, CreateL2)
  REGISTER_METHOD_CREATOR(float, METH_HNSW, CreateHnsw)
}

}  // namespace similarity
"""
TRIAL = "import nmslib; nmslib.init(method='hnsw', space='l2')"


def build(folder: Path, into: Path) -> None:
    """Fetch the source to `folder`, leave out what is not needed, and write the wheel."""
    (folder / "lock").write_text(locked())
    pip("download", "--no-binary", "nmslib", "--require-hashes", "-r", "lock", folder=folder)
    (archive,) = folder.glob("nmslib-*.tar.gz")
    shutil.unpack_archive(archive, folder)
    source = archive.with_name(archive.name.removesuffix(".tar.gz"))
    for path in source.rglob("*.cc"):
        if path.name not in NEEDED:
            path.unlink()
    (source / "similarity_search" / "src" / "init.cc").write_text(INIT)
    setup = source / "setup.py"
    setup.write_text(re.sub(r"^(__version__ = '[^']+)", r"\1+avx2", setup.read_text(), flags=re.M))
    os.environ["CFLAGS"] = os.environ["CXXFLAGS"] = "-march=x86-64-v3 -g0"
    pip("wheel", "--wheel-dir", "wheels", str(source), folder=folder)
    (wheel,) = (folder / "wheels").iterdir()
    pip("install", "--target", "trial", str(wheel), folder=folder)
    subprocess.run([sys.executable, "-c", TRIAL], cwd=folder / "trial", check=True)
    shutil.copy(wheel, into)


def locked() -> str:
    """Return what requirements.lock says of nmslib."""
    entry = re.search(r"^nmslib==(.*\\\n)+.*\n", LOCK.read_text(), re.M)
    assert entry
    return entry[0]


def pip(command: str, *arguments: str, folder: Path) -> None:
    options = ["--quiet", "--no-deps"]
    if command != "install":
        options.append("--no-build-isolation")
    subprocess.run(
        [sys.executable, "-m", "pip", command, *options, *arguments], cwd=folder, check=True
    )


def has_avx2() -> bool:
    """Return whether this is x86-64-v3: an x86 with AVX2 and what came with it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    flags = Path("/proc/cpuinfo").read_text().split()
    return {"avx2", "bmi2", "fma"} <= set(flags)


def is_installed() -> bool:
    try:
        return metadata.version("nmslib") == f"{locked().split()[0].partition('==')[2]}+avx2"
    except metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    if has_avx2() and not is_installed():
        with tempfile.TemporaryDirectory() as name:
            build(Path(name), Path(sys.argv[1]).resolve())
