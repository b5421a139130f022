"""Which models are live, and how a change reaches all replicas without a pause.

The live versions are stored in the key-value store of Ray's head node, one entry for each
application. Every replica follows its entry (serve/replicas/base.py): it loads new versions next
to those it has, and closes a version half a minute after it was last live. The gateway names the
version in every call; a replica that has not loaded it yet raises `VersionMissingError`, and the
gateway asks for the previous version. So replicas need not switch at the same moment, and no
request waits for a model to load.
"""

import time
from collections.abc import Mapping, Sequence

from pydantic import Field

from seqvis.config import Settings
from seqvis.errors import SeqvisError
from seqvis.ray_internals import head_delete, head_get, head_keys, head_put
from serve.common.settings import Application, Version

FOLLOW_EVERY = 0.5  # seconds between two looks at what is live
_DRAINING = "draining"
_GATEWAY = "gateway"
_FRONTS = "front/"
_GONE_AFTER = 60.0  # seconds without a report after which a front is taken for ended


class VersionMissingError(SeqvisError):
    """A replica has not loaded this version yet, or has already closed it."""


class LiveVersions(Settings):
    """What an application serves."""

    number: int = 1
    """Counts the changes."""
    configured: tuple[Version, ...] = ()
    """What the configuration said when `versions` was last taken from it."""
    versions: tuple[Version, ...] = Field(min_length=1)
    previous: tuple[Version, ...] = ()
    """What was live before; replicas that still load the new versions answer with these."""
    refused: str | None = None
    """Why the versions that were configured last are not live."""

    def all(self) -> tuple[Version, ...]:
        """Return the live versions, then the previous ones, without duplicates."""
        by_key = {version_key(version): version for version in (*self.previous, *self.versions)}
        live = {version_key(version): version for version in self.versions}
        return tuple((live | by_key).values())


class FrontReport(Settings):
    """What a replica that takes HTTP says of itself (serve/gateway/front.py)."""

    at: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    granted: Mapping[str, float] = {}
    """Requests granted since its start, by the name of the key."""
    under_way: int = 0
    draining: bool = False
    """Whether it refuses new requests."""


def version_key(version: Version) -> str:
    """Return what gateway and replicas call a version, since a name may get another path."""
    return f"{version.name}={','.join(version.paths)}"


class Store:
    """The live versions in the store of Ray's head node, which lives as long as the cluster."""

    def read(self, application: Application) -> LiveVersions | None:
        stored = head_get(application)
        return None if stored is None else LiveVersions.model_validate_json(stored)

    def write(self, application: Application, live: LiveVersions) -> None:
        head_put(application, live.model_dump_json())

    def announce_draining(self, draining: bool) -> None:
        """Tell all gateways whether the server is being stopped; they look twice a second."""
        if draining:
            head_put(_DRAINING, "1")
        else:
            head_delete(_DRAINING)

    def draining(self) -> bool:
        """Tell whether the server is being stopped."""
        return head_get(_DRAINING) is not None

    def publish_gateway(self, settings: str) -> None:
        """Store the gateway's settings and keys, for replicas that take HTTP themselves."""
        head_put(_GATEWAY, settings)

    def gateway(self) -> str | None:
        """Return what the gateway that started last has published."""
        stored = head_get(_GATEWAY)
        return None if stored is None else stored.decode()

    def report(self, front: str, report: FrontReport) -> None:
        """Store what a front says of itself."""
        head_put(_FRONTS + front, report.model_dump_json())

    def reports(self) -> dict[str, FrontReport]:
        """Return what fronts have said within the last minute, by their names."""
        reports = {}
        for key in head_keys(_FRONTS):
            if (stored := head_get(key)) is None:
                continue
            report = FrontReport.model_validate_json(stored)
            if report.at > time.time() - _GONE_AFTER:
                reports[key.removeprefix(_FRONTS)] = report
            else:
                head_delete(key)
        return reports


def configure(store: Store, application: Application, versions: Sequence[Version]) -> LiveVersions:
    """Make `versions` live, unless they were configured before and changed since by the API."""
    live = store.read(application)
    versions = tuple(versions)
    if live is not None and live.configured == versions:
        return live
    return change(store, application, versions, configured=versions)


def change(
    store: Store,
    application: Application,
    versions: Sequence[Version],
    configured: tuple[Version, ...] | None = None,
) -> LiveVersions:
    """Make `versions` live."""
    before = store.read(application)
    if configured is None:
        configured = before.configured if before else ()
    live = LiveVersions(
        number=before.number + 1 if before else 1,
        configured=configured,
        versions=tuple(versions),
        previous=before.versions if before else (),
    )
    store.write(application, live)
    return live


def refuse(store: Store, application: Application, reason: str) -> None:
    """Record why a configured change was not made, until the next change."""
    live = store.read(application)
    if live is not None:
        store.write(application, live.model_copy(update={"refused": reason}))
