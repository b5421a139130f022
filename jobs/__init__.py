"""The jobs: one file each, run by `python -m jobs.NAME` here or by `ray job submit`."""

from seqvis.process import prepare_to_compute

prepare_to_compute()
