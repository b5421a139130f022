"""The jobs: one file each, run by `python -m jobs.NAME` here or by `ray job submit`."""

import os

from seqvis.process import keep_freed_memory

# OpenMP's threads spin while they wait for each other. With anything else on the machine that
# makes a training step tens of times slower; it must be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()
