"""The application `search`: an encoder, an index for each shard of the collection, and a writer."""

from ray import serve

from serve.common.settings import SearchSettings
from serve.replicas import encoder, index, writer


def build(settings: SearchSettings) -> serve.Application:
    """The application; it has a deployment `Index-N` for each shard."""
    parts = [
        index.deployment(settings, shard).bind(settings, shard) for shard in range(settings.shards)
    ]
    return encoder.deployment(settings).bind(settings, [*parts, writer.deployment().bind(settings)])
