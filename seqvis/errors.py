"""The exceptions a caller may catch.

    SeqvisError                 every error that a user can cause and mend
    ├── ConfigError             a flag or a YAML key: unknown, missing, or out of range
    ├── DataError               an input file: missing, empty, badly encoded, of the wrong shape
    ├── ArtifactError           a directory written by a job: wrong kind, altered, of another corpus
    ├── StorageError            a disk or an object store that refuses to take or give data
    └── TrainingError           a run that cannot go on: a loss that is not finite, a lost worker

A message names the file or the value, and says what to do. Anything else that is raised is a
defect of seqvis and keeps its traceback.
"""


class SeqvisError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(SeqvisError):
    """A flag or a YAML key is unknown, missing or out of range."""


class DataError(SeqvisError):
    """An input file is missing, empty, badly encoded or of the wrong shape."""


class ArtifactError(SeqvisError):
    """A directory written by a job is of the wrong kind, incomplete, altered, or does not match."""


class StorageError(SeqvisError):
    """A disk or an object store refuses to take or give data."""


class TrainingError(SeqvisError):
    """A training run cannot go on."""
