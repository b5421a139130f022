"""Settings of the applications and of translations, without importing torch."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from seqvis.config import Settings
from seqvis.decoding.cost import Cost
from serve.common.roots import place_of


@dataclass(frozen=True)
class TranslateOptions:
    """How to translate the texts of a request, and what to return besides the translations."""

    beam: int = 1
    n_best: int = 1
    length_penalty: float = 1.0
    attention: bool = False
    partial: bool = False
    most: Cost | None = None  # what all the texts may cost, as the model reads them


Application = Literal["translator", "search"]


class Version(Settings):
    """A model that is live under a name, with its share of the traffic."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name by which a request may ask for it."""
    path: str = Field(min_length=1, max_length=4096)
    """Directory or URI of the artifact; the same on all nodes."""
    share: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Requests that do not ask for a version go to each in proportion to its share; 0: none."""


class Versions(Settings):
    """All versions of an application that are live."""

    versions: tuple[Version, ...] = Field(min_length=1, max_length=8)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        names = [version.name for version in self.versions]
        if len(set(names)) < len(names):
            raise ValueError("two versions have the same name")
        if not any(version.share for version in self.versions):
            raise ValueError("all shares are 0, so nothing would answer")
        return self


class ImageSearchSettings(Settings):
    """The application `search`."""

    collection: str
    """Directory that build_index wrote, or one of shards, on a disk that all replicas reach."""
    shards: int = Field(1, ge=1, le=1000)
    """Shards of the collection; each has a deployment of its own."""
    model: str | None = None
    """The collection's model, if it was moved."""
    vectors: str | None = None
    """The model's word vectors, if they were moved."""
    encoder_on_gpu: bool = False
    """Embed pictures on a GPU."""
    index_on_gpu: bool = False
    """Search exactly, on a GPU, instead of the graph on a processor."""
    threads: int = Field(1, ge=1, le=64)
    """Processor threads of the picture encoder."""
    encode_at_once: int = Field(16, ge=1, le=256)
    """Most pictures that are embedded in one run of the network."""
    max_waiting: int = Field(64, ge=1)
    """Pictures that wait for the network; more are refused at once."""
    timeout_s: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Seconds after which a search, or a search for words, is given up and refused."""
    recall_sample: float = Field(0.01, ge=0, le=1)
    """Share of searches that are repeated exactly to measure the recall."""
    attribution: str | None = None
    """Whose pictures these are, shown by the page."""


class Limits(Settings):
    """What a request may ask for."""

    texts: int = Field(128, ge=1)
    """Texts of one request to translate; those of a stream are 100 times as many."""
    characters: int = Field(2000, ge=1)
    """Characters of one text."""
    words: int = Field(256, ge=1)
    """Words and marks of one text; a long word counts for every eight letters begun."""
    work: int = Field(8_000_000, ge=1)
    """Work of a request to translate (seqvis/decoding/cost.py), of a stream 100 times as much.
    128 texts of 20 words with a beam of 8 are 4.5 million; 8 million take at most about two
    seconds of a processor core with the demo's model."""
    work_per_request: int = Field(100_000, ge=1)
    """Work that counts as one request of a key; a request of more counts as several."""
    attention: int = Field(400_000, ge=1)
    """Weights of attention in one answer, of a stream 100 times as many: a text has as many as its
    source tokens times the longest translation's, for each of n_best."""
    beam: int = Field(8, ge=1, le=64)
    """Widest beam."""
    matches: int = Field(1000, ge=1)
    """Most matches of a search."""
    image_bytes: int = Field(10 << 20, ge=1024)
    """Bytes of an uploaded picture."""
    metadata_bytes: int = Field(16 << 10, ge=1024)
    """Bytes of a picture's metadata, as JSON."""
    body_bytes: int = Field(12 << 20, ge=1024)
    """Bytes of any request."""


class UnderWay(Settings):
    """Calls of one replica of the gateway that a deployment may have at once.

    Their sum is to stay below the gateway's `max_ongoing_requests`.
    """

    translator: int = Field(128, ge=1)
    """Calls of the translator; each may hold many texts."""
    encoder: int = Field(32, ge=1)
    """Pictures."""
    index: int = Field(64, ge=1)
    """Searches of each shard."""
    writer: int = Field(16, ge=1)
    """Changes of the collection."""
    bodies: int = Field(32, ge=1)
    """Bodies of requests that are still on their way in; as many again may be thrown away."""


class GatewaySettings(Settings):
    """The application `gateway`."""

    translator: bool = True
    """Whether the application `translator` is there."""
    search: bool = True
    """Whether the application `search` is there."""
    keys: str | None = None
    """File of API keys (serve.make_key makes entries); without one only this machine may ask."""
    legacy_keys: bool = False
    """Entries of the file of keys without scopes keep their old meaning: all but `admin`, unless
    they say `admin: true`."""
    model_roots: tuple[str, ...] = ()
    """Directories and URIs that PUT /v1/models and `user_config` may name models in; by default
    the directories around what is served at first."""
    host: str = "127.0.0.1"
    """Address at which Serve's proxy listens; any but a loopback one needs `keys`."""
    replicas: int = Field(1, ge=1)
    """Replicas among which each key's limit is divided: the deployment's max_replicas."""
    timeout_s: float = Field(30.0, gt=0)
    """Seconds after which a request is given up and answered with 503."""
    limits: Limits = Limits()
    under_way: UnderWay = UnderWay()
    access_log: bool = True
    """A line in the log for every request."""

    @field_validator("model_roots")
    @classmethod
    def _places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for root in value:
            try:
                place_of(root)
            except ValueError as error:
                raise ValueError(f"one of them {error}; give plain paths and URIs") from None
        return value


class GatewayUserConfig(Settings):
    """The `user_config` of the deployment Gateway: which models are live."""

    translator: Versions | None = None
    search: Versions | None = None
