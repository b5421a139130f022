"""Publish an artifact on the Hugging Face Hub."""

from functools import partial
from typing import Any

from seqvis import artifacts
from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.collection.manifest import SHARDED
from seqvis.errors import ConfigError
from seqvis.hub.push import push


class PushToHub(JobSettings):
    """Publishes what a job wrote on the Hugging Face Hub, with a model card from its manifest.

    What is published is loaded as hf://NAME, wherever a job takes a model. It needs a token that
    may write: HF_TOKEN, or what `hf auth login` stored.
    """

    artifact: str
    """Directory or URI that a job wrote: a translator, a DeViSE model, a collection, word vectors
    or another artifact."""
    name: str
    """ORGANISATION/REPOSITORY, which is made if it is not there."""
    private: bool = False
    """Make the repository visible to its owners only; one that is there stays as it is."""
    revision: str | None = None
    """Branch to publish to, which is made if it is not there. Default: the main one."""
    license: str = "unknown"
    """The hub's name of the licence, such as apache-2.0 or cc-by-4.0."""
    needs: str | None = None
    """What those who load it need, as hf://NAME: the word vectors of a DeViSE model, or the model
    of a collection."""


def run(settings: PushToHub) -> dict[str, Any]:
    """Publish, and return where it is."""
    kind = artifacts.kind_of(settings.artifact)
    options = settings.model_dump(include={"private", "revision", "license", "needs"})
    if kind == SHARDED:
        raise ConfigError(
            f"--artifact {settings.artifact}: is a sharded collection; publish its directories "
            f"shard-000 and so on, each by a name of its own"
        )
    if kind == "collection":
        from seqvis.collection.collection import Collection

        with Collection.open(settings.artifact, read_only=True) as collection:
            commit = collection.push_to_hub(settings.name, **options)
    else:
        commit = push(artifacts.load(settings.artifact, kind), settings.name, **options)
    at = f"@{settings.revision}" if settings.revision else ""
    return {"kind": kind, "commit": commit, "uri": f"hf://{settings.name}{at}"}


main = partial(run_job, PushToHub, run)

if __name__ == "__main__":
    leave(main())
