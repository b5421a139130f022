"""Which models are live, and how replicas follow a change without a pause.

The wanted versions are stored in the key-value store of Ray's head node, one entry for each
application. Every replica follows its entry: it loads new versions next to those it has, and closes
a version half a minute after it was last wanted. The gateway names the version in every call; a
replica that has not loaded it yet answers `VersionMissingError`, and the gateway asks for the
previous one. So replicas need not agree on the moment of a switch, and no request waits for a model
to load.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from pydantic import Field

from seqvis.config import Settings
from seqvis.errors import SeqvisError, redacted
from seqvis.ray_internals import head_get, head_put
from serve.common import draining
from serve.common.settings import Application, Version

T = TypeVar("T")

FOLLOW_EVERY = 0.5  # seconds
KEEP_FOR = 30.0  # seconds that a version stays loaded after it was last wanted

_log = logging.getLogger("ray.serve")


class VersionMissingError(SeqvisError):
    """A replica has not loaded this version yet, or has already closed it."""


class Wanted(Settings):
    """What an application serves."""

    number: int = 1
    """Counts the changes."""
    configured: tuple[Version, ...] = ()
    """What the configuration said when `versions` was last taken from it."""
    versions: tuple[Version, ...] = Field(min_length=1)
    previous: tuple[Version, ...] = ()
    """What was live before; replicas that still load the new versions answer with these."""
    refused: str | None = None
    """Why the versions that were configured last are not the live ones."""

    def all(self) -> tuple[Version, ...]:
        """The live versions and those before, each path under a name once, the live ones first."""
        by_key = {version_key(version): version for version in (*self.previous, *self.versions)}
        live = {version_key(version): version for version in self.versions}
        return tuple((live | by_key).values())


def version_key(version: Version) -> str:
    """By which gateway and replicas call a version: a name may come to mean another path."""
    return f"{version.name}={version.path}"


class Store(Protocol):
    """A store of the wanted versions that all replicas can read."""

    def read(self, application: Application) -> Wanted | None: ...

    def write(self, application: Application, wanted: Wanted) -> None: ...

    def draining(self) -> bool:
        """Whether the server ends."""
        ...


class HeadStore:
    """The key-value store of the Ray cluster's head node: it lives as long as the cluster."""

    def read(self, application: Application) -> Wanted | None:
        found = head_get(application)
        return None if found is None else Wanted.model_validate_json(found)

    def write(self, application: Application, wanted: Wanted) -> None:
        head_put(application, wanted.model_dump_json())

    def draining(self) -> bool:
        return draining.announced()


def configure(store: Store, application: Application, versions: Sequence[Version]) -> Wanted:
    """Makes `versions` wanted, unless they were configured before and changed since by the API."""
    wanted = store.read(application)
    versions = tuple(versions)
    if wanted is not None and wanted.configured == versions:
        return wanted
    return change(store, application, versions, configured=versions)


def change(
    store: Store,
    application: Application,
    versions: Sequence[Version],
    configured: tuple[Version, ...] | None = None,
) -> Wanted:
    """Makes `versions` the live ones."""
    before = store.read(application)
    if configured is None:
        configured = before.configured if before else ()
    wanted = Wanted(
        number=before.number + 1 if before else 1,
        configured=configured,
        versions=tuple(versions),
        previous=before.versions if before else (),
    )
    store.write(application, wanted)
    return wanted


def refuse(store: Store, application: Application, reason: str) -> None:
    """Notes why a configured change was not made; the next one forgets it."""
    wanted = store.read(application)
    if wanted is not None:
        store.write(application, wanted.model_copy(update={"refused": reason}))


class Follower(Generic[T]):
    """The loaded versions of one replica, kept up to date by a thread of its own.

    Args:
        load: opens a version and tries it; whatever it raises means that it cannot be used.
        release: closes a version, half a minute after it was last wanted.
        told: is called after every attempt to load a version, with its name and whether it worked.
    """

    def __init__(
        self,
        application: Application,
        store: Store,
        load: Callable[[Version], T],
        release: Callable[[T], None],
        told: Callable[[str, bool], None] = lambda name, loaded: None,
    ):
        self._application = application
        self._store = store
        self._load, self._release, self._told = load, release, told
        self._loaded: dict[str, T] = {}
        self._last_wanted: dict[str, float] = {}
        self._refused: dict[str, tuple[int, str]] = {}
        self._loading = threading.RLock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Loads what is wanted. Raises what `load` raises if nothing of it can be loaded.

        A version that is refused does not keep a replica from starting if the one before it, or
        another that is live, can be loaded.
        """
        problem = self._take_up()
        if not self._loaded:
            raise problem or SeqvisError(f"nothing is wanted of {self._application}")
        self._thread.start()

    def get(self, key: str) -> T:
        """The version with this key. Raises VersionMissingError."""
        try:
            return self._loaded[key]
        except KeyError:
            raise VersionMissingError(key) from None

    def loaded(self) -> list[str]:
        """Keys of the versions that can answer."""
        return list(self._loaded)

    def values(self) -> list[T]:
        return list(self._loaded.values())

    def try_version(self, version: Version) -> T:
        """Loads a version before it is wanted, and keeps it for a while; raises if it is bad."""
        with self._loading:
            key = version_key(version)
            self._last_wanted[key] = time.monotonic()
            self._refused.pop(key, None)
            if key not in self._loaded:
                self._open(version)
            return self._loaded[key]

    def refused(self) -> dict[str, str]:
        """Why wanted versions are not loaded, by key."""
        return {key: reason for key, (_, reason) in self._refused.items()}

    def stop(self) -> None:
        """Lets go of everything."""
        self._stopped.set()
        with self._loading:
            for key in list(self._loaded):
                self._release(self._loaded.pop(key))

    def _follow(self) -> None:
        while not self._stopped.wait(FOLLOW_EVERY):
            try:
                self._take_up()
            except Exception:  # the head node may be away; what is loaded goes on
                _log.exception("cannot follow what is wanted of %s", self._application)

    def _take_up(self) -> Exception | None:
        wanted = self._store.read(self._application)
        if wanted is None:
            return None
        problem: Exception | None = None
        with self._loading:
            for version in wanted.versions:
                problem = self._have(version, wanted.number) or problem
            if problem and not any(version_key(one) in self._loaded for one in wanted.versions):
                for version in wanted.previous:
                    self._have(version, wanted.number)
            self._let_go()
        return problem

    def _have(self, version: Version, number: int) -> Exception | None:
        """Loads a version if it is not; one that was refused is tried again at the next change."""
        key = version_key(version)
        self._last_wanted[key] = time.monotonic()
        if key in self._loaded or self._refused.get(key, (0, ""))[0] == number:
            return None
        try:
            self._open(version)
        except Exception as error:  # whatever is wrong with an artifact, the old one goes on
            self._refused[key] = (number, str(error))
            _log.error(redacted(json.dumps({"refused": key, "reason": str(error)})))
            return error
        return None

    def _open(self, version: Version) -> None:
        try:
            opened = self._load(version)
        except BaseException:
            self._told(version.name, False)
            raise
        self._loaded[version_key(version)] = opened
        self._refused.pop(version_key(version), None)
        self._told(version.name, True)

    def _let_go(self) -> None:
        limit = time.monotonic() - KEEP_FOR
        for key in [key for key in self._loaded if self._last_wanted.get(key, 0.0) < limit]:
            if len(self._loaded) > 1:  # the last one stays, whatever is wanted
                self._release(self._loaded.pop(key))
