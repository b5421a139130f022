"""The jobs as functions for programs and notebooks: data in, an opened result out.

Each has the name of its job. They show progress as the job does, in a notebook in the output of the
cell, and continue what was interrupted when they are called again in the same way.
"""

from seqvis.process import prepare_to_compute

prepare_to_compute()
