"""Build the applications of the server: `translator`, `search` and `gateway`.

The functions of these names are for a Serve YAML, which has its own numbers of replicas and GPUs
under `deployments`; the `build_` functions are for `seqvis serve`.
"""

from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig

from serve.common.settings import GatewaySettings, ImageSearchSettings, Replicas
from serve.gateway.deployment import GatewayReplica
from serve.replicas.collection import IndexReplica, WriterReplica
from serve.replicas.encoder import EncoderReplica
from serve.replicas.translator import TranslatorReplica, TranslatorSettings

TRANSLATE_ROUTE = "/v1/translate"
"""Of the application `translator`, so that its replicas take these requests themselves."""
END_WITHIN = 60.0  # seconds for the requests of a replica that is replaced or no longer needed
_UPSCALE_DELAY, _DOWNSCALE_DELAY = 5, 60  # seconds that a load must hold


def translator(settings: TranslatorSettings) -> serve.Application:
    """Build the application `translator`, for a Serve YAML."""
    return build_translator(settings)


def search(settings: ImageSearchSettings) -> serve.Application:
    """Build the application `search`, with a deployment `Index-N` for each shard."""
    return build_search(settings)


def gateway(settings: GatewaySettings) -> serve.Application:
    """Build the application `gateway`, for a Serve YAML."""
    return build_gateway(settings)


def build_translator(
    settings: TranslatorSettings, replicas: Replicas | None = None, gpus: float = 1.0
) -> serve.Application:
    """Build the application `translator`; each replica takes `gpus` if it decodes on a GPU."""
    deployment = _deployment(
        serve.ingress()(TranslatorReplica),
        "Translator",
        256,  # more than may be under way: settings.UnderWay
        replicas,
        gpus if settings.use_gpu else 0,
        max_queued_requests=256,
    )
    return deployment.bind(settings)


def build_search(
    settings: ImageSearchSettings,
    encoders: Replicas | None = None,
    indexes: Replicas | None = None,
    gpus: float = 1.0,
) -> serve.Application:
    """Build the application `search`; `indexes` are the replicas of each shard."""
    on_index = gpus if settings.index_on_gpu else 0
    parts = [
        _deployment(IndexReplica, f"Index-{shard}", 128, indexes, on_index).bind(settings, shard)
        for shard in range(settings.shards)
    ]
    parts.append(_deployment(WriterReplica, "Writer", 64).bind(settings))
    on_encoder = gpus if settings.encoder_on_gpu else 0
    return _deployment(EncoderReplica, "Encoder", 128, encoders, on_encoder).bind(settings, parts)


def build_gateway(settings: GatewaySettings, replicas: Replicas | None = None) -> serve.Application:
    """Build the application `gateway`."""
    deployment = _deployment(
        serve.ingress()(GatewayReplica),
        "Gateway",
        320,  # more than all that may be under way: settings.UnderWay
        replicas,
        max_queued_requests=512,  # a burst that is not yet assigned; the gateway refuses itself
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    )
    return deployment.bind(settings)


def _deployment(
    replica: type,
    name: str,
    most: int,
    replicas: Replicas | None = None,
    gpus: float = 0,
    **options: Any,
) -> serve.Deployment:
    """Declare a deployment whose replicas take `most` requests at once; one if not said."""
    declare = serve.deployment(
        name=name,
        max_ongoing_requests=most,
        health_check_period_s=2,
        health_check_timeout_s=3,
        graceful_shutdown_timeout_s=END_WITHIN,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": 0.1, **({"num_gpus": gpus} if gpus else {})},
        **(_scaling(replicas) if replicas else {}),
        **options,
    )
    deployment: serve.Deployment = declare(replica)
    return deployment


def _scaling(replicas: Replicas) -> dict[str, Any]:
    """Return Serve's options for so many replicas."""
    if replicas.most == replicas.min:
        return {"num_replicas": replicas.min}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "max_replicas": replicas.most,
            "target_ongoing_requests": replicas.target,
            "upscale_delay_s": _UPSCALE_DELAY,
            "downscale_delay_s": _DOWNSCALE_DELAY,
        }
    }
