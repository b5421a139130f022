"""Settings of the applications and of translations, and the places that models may come from.

Nothing here imports torch.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from seqvis.checks import has_control_characters
from seqvis.config import Settings
from seqvis.decoding.cost import Cost
from seqvis.errors import ConfigError


@dataclass(frozen=True)
class TranslateOptions:
    """How to translate the texts of a request, and what to return besides the translations."""

    beam: int = 1
    n_best: int = 1
    length_penalty: float = 1.0
    attention: bool = False
    partial: bool = False
    min_confidence: float = 0.0  # a translation of less is refused
    most: Cost | None = None  # what all the texts may cost, as the model reads them


Application = Literal["translator", "search"]
_Path = Annotated[str, Field(min_length=1, max_length=4096)]
_Paths = Annotated[tuple[_Path, ...], Field(min_length=1, max_length=8)]


class Version(Settings):
    """A model that is live under a name, with its share of the traffic."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name by which a request may ask for it."""
    path: _Path | _Paths
    """Directory or URI of the artifact, the same on all nodes; of a translator also a list of
    several, which translate together."""
    share: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Requests that do not ask for a version go to each in proportion to its share; 0: none."""

    @field_validator("path")
    @classmethod
    def _alone(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return value if isinstance(value, str) or len(value) > 1 else value[0]

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def only_path(self) -> str:
        """The path of an artifact that works alone. Raises ConfigError if there are several."""
        if len(self.paths) > 1:
            raise ConfigError(f"{self.name}: needs one path; only translators work together")
        return self.paths[0]


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
    encode_at_once: int | None = Field(None, ge=1, le=256)
    """Most pictures that are embedded in one run of the network: by default 64 on a GPU, and 4 on a
    processor, where more take as long each, and memory for each number of pictures."""
    max_waiting: int = Field(64, ge=1)
    """Pictures that wait for the network; more are refused at once."""
    timeout_s: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Seconds after which a search, or a search for words, is given up and refused."""
    recall_sample: float = Field(0.01, ge=0, le=1)
    """Share of searches that are repeated exactly to measure the recall."""
    attribution: str | None = None
    """Whose pictures these are, shown by the page."""

    def most_at_once(self) -> int:
        """Return the most pictures that are embedded in one run of the network."""
        return self.encode_at_once or (64 if self.encoder_on_gpu else 4)


class Replicas(Settings):
    """How many replicas run of a deployment: of the index, for each shard of the collection."""

    min: int = Field(1, ge=1, le=1000)
    """Replicas that always run."""
    max: int | None = Field(None, ge=1, le=1000)
    """Most replicas; above `min` their number follows the load."""
    target: float = Field(gt=0, allow_inf_nan=False)
    """Requests under way in a replica that are normal: with more of them, more replicas run."""

    @property
    def most(self) -> int:
        return self.max or self.min

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.most < self.min:
            raise ValueError(f"max is {self.max}, less than min, {self.min}")
        return self


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
    """Most matches of a search, or of all searches of one request; most pictures of a page."""
    searches: int = Field(100, ge=1)
    """Searches of one request."""
    images: int = Field(64, ge=1)
    """Pictures of one request to add."""
    image_bytes: int = Field(10 << 20, ge=1024)
    """Bytes of an uploaded picture."""
    metadata_bytes: int = Field(16 << 10, ge=1024)
    """Bytes of a picture's metadata, as JSON."""
    body_bytes: int = Field(12 << 20, ge=1024)
    """Bytes of any request."""


class UnderWay(Settings):
    """Calls of one replica that takes HTTP which a deployment may have at once.

    Their sum is to stay below the gateway's `max_ongoing_requests`, those of the translator below
    that of Translator too.
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
    """Has no effect any more: a key's limit holds over all replicas, however many there are."""
    timeout_s: float = Field(30.0, gt=0)
    """Seconds after which a request is given up and answered with 503."""
    min_confidence: float = Field(0.0, ge=0, le=1)
    """Translations of less confidence are refused, unless the request has its own
    `min_confidence`."""
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


@dataclass(frozen=True)
class Place:
    """A directory or prefix, in a normal form for comparisons."""

    store: str  # s3://bucket; empty for the local disk
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((self.store, *self.parts)) if self.store else str(Path(*self.parts))

    def holds(self, other: "Place") -> bool:
        """Tell whether `other` is this place or lies inside."""
        return self.store == other.store and other.parts[: len(self.parts)] == self.parts

    def above(self) -> "Place":
        """Return the directory around this place, unless that would be the whole disk."""
        least = 0 if self.store else 2
        return Place(self.store, self.parts[:-1]) if len(self.parts) > least else self


def place_of(path: str) -> Place:
    """Return what a path or URI names. Raises ValueError if a URI names more than a place."""
    if has_control_characters(path) or path != path.strip():
        raise ValueError("has control characters, or blanks at an end")
    if "://" not in path:
        return _local(os.path.expanduser(path))
    # A URI can name any host to contact, and the password to send to it
    # (`s3://user:password@bucket/x?endpoint_override=…`): one with more than a place is refused.
    if "?" in path or "#" in path:
        raise ValueError("has options (?) or a fragment (#)")
    parsed = urlsplit(path)
    if "@" in parsed.netloc:
        raise ValueError("has credentials (@)")
    name = unquote(parsed.path, errors="strict")
    if parsed.scheme == "file" and not parsed.netloc:
        return _local(name)
    if not parsed.scheme or not parsed.netloc:
        raise ValueError("has no scheme or no bucket")
    parts = tuple(name.strip("/").split("/")) if name.strip("/") else ()
    if {"", ".", ".."} & set(parts):
        raise ValueError("has an empty segment, or . or ..")
    return Place(f"{parsed.scheme}://{parsed.netloc}", parts)


def _local(path: str) -> Place:
    return Place("", Path(os.path.realpath(path)).parts)


class Roots:
    """The places from which models may be loaded. Links of local paths are followed."""

    def __init__(self, configured: Sequence[str] = ()):
        self._configured = tuple(place_of(root) for root in configured)

    def check(self, name: str, path: str, served: Iterable[str]) -> None:
        """Raise ApiError, which says what the operator can do, if `path` is not allowed.

        Args:
            name: of the version.
            served: what the operator made live; if no roots are configured, models may come from
                the directories around these.
        """
        from serve.common.http import ApiError  # loads Starlette, part of the extra `serve`

        try:
            place = place_of(path)
        except ValueError as error:
            raise ApiError(
                422,
                f"{name}: its path {error}; give a plain path or URI, and credentials and options "
                "of a store to the servers' environment",
            ) from None
        roots = self._configured or tuple(_around(served))
        if not any(root.holds(place) for root in roots):
            there = ", ".join(map(str, dict.fromkeys(roots))) or "none"
            raise ApiError(
                403,
                f"{name}: its path lies outside the places that models may come from ({there}); "
                "the operator sets them: model_roots of the gateway",
            )


def _around(served: Iterable[str]) -> Iterable[Place]:
    for path in served:
        scheme, mark, rest = path.partition("://")
        if mark:  # the operator's own may have credentials and options
            rest = rest.partition("#")[0].partition("?")[0]
            authority, slash, name = rest.partition("/")
            path = f"{scheme}://{authority.rpartition('@')[2]}{slash}{name}"
        yield place_of(path).above()
