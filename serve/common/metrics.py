"""The project's own Prometheus metrics; Ray exports them with the prefix `ray_`.

Serve adds the tags deployment, replica and application. A metric can be made only in a replica, so
each deployment makes those that it fills.
"""

from dataclasses import dataclass

from ray.serve.metrics import Counter, Gauge, Histogram

REJECTED = (401, 403, 413, 422, 429, 503)
_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


@dataclass(frozen=True)
class RequestRecord:
    """A request and how it was answered."""

    route: str
    status: int
    seconds: float
    reject: str | None  # why it was refused, in a word


class RequestMetrics:
    """Metrics of requests, of every deployment that takes HTTP."""

    def __init__(self) -> None:
        self.requests = Counter(
            "seqvis_requests_total",
            "Requests answered",
            tag_keys=("route", "status"),  # type: ignore[arg-type]
        )
        self.rejects = Counter(
            "seqvis_rejects_total", "Requests refused, by reason", tag_keys=("reason",)
        )
        self.seconds = Histogram(
            "seqvis_request_seconds",
            "Seconds from a request to its answer",
            boundaries=_SECONDS,
            tag_keys=("route",),
        )

    def count(self, record: RequestRecord) -> None:
        """Count a request and its answer."""
        self.requests.inc(1, tags={"route": record.route, "status": str(record.status)})
        self.seconds.observe(record.seconds, tags={"route": record.route})
        if record.status in REJECTED:
            self.rejects.inc(1, tags={"reason": record.reject or str(record.status)})


def cancelled_counter() -> Counter:
    """Return the counter of calls that ended early, for every deployment whose callers may go."""
    return Counter("seqvis_cancelled_total", "Work that was ended because its caller had gone")


def switches_counter() -> Counter:
    """Return the counter of versions, for every deployment that follows the live ones."""
    return Counter(
        "seqvis_model_switches_total",
        "Versions that a replica tried to load",
        tag_keys=("result",),
    )


class TranslatorMetrics:
    """Metrics of a translator replica."""

    def __init__(self) -> None:
        self.first_word = Histogram(
            "seqvis_first_token_seconds", "Seconds to the first word", boundaries=_SECONDS
        )
        self.total = Histogram(
            "seqvis_translation_seconds", "Seconds to the whole sentence", boundaries=_SECONDS
        )
        self.words = Counter("seqvis_tokens_total", "Words of translations")
        self.cancelled = cancelled_counter()
        self.rows = Gauge("seqvis_batch_rows", "Rows of the running batch")
        self.occupancy = Gauge("seqvis_batch_occupancy", "Rows of the batch over those it may have")
        self.waiting = Gauge("seqvis_queue_length", "Sentences that wait for a place in the batch")


class EncoderMetrics:
    """Metrics of a replica of the picture encoder."""

    def __init__(self) -> None:
        self.seconds = Histogram(
            "seqvis_encode_seconds", "Seconds to embed a picture", boundaries=_SECONDS
        )
        self.waiting = Gauge("seqvis_queue_length", "Pictures that wait for the network")
        self.cancelled = cancelled_counter()


class IndexMetrics:
    """Metrics of a replica of one of the index's shards."""

    def __init__(self) -> None:
        self.seconds = Histogram(
            "seqvis_search_seconds",
            "Seconds of a search",
            boundaries=[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0],
            tag_keys=("shard",),
        )
        self.items = Gauge("seqvis_index_items", "Pictures in the shard", tag_keys=("shard",))
        self.tail = Gauge("seqvis_index_tail", "Pictures searched one by one", tag_keys=("shard",))
        self.recall = Gauge(
            "seqvis_recall_sample",
            "Recall@10 of sampled searches against exact search",
            tag_keys=("shard",),
        )
        self.cancelled = cancelled_counter()
