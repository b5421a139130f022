"""What all replicas share: follow the live versions, and limit the calls that take long."""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from ray.serve.metrics import Counter

from seqvis.deadline import Deadline
from seqvis.errors import SearchTimeoutError, SeqvisError, redacted
from seqvis.ray_internals import keep_replica_local
from serve.common.metrics import switches_counter
from serve.common.settings import Application, Version
from serve.common.versions import (
    FOLLOW_EVERY,
    Store,
    VersionMissingError,
    configure,
    version_key,
)

Model = TypeVar("Model")

KEEP_FOR = 30.0  # seconds that a version stays loaded after it was last live
REPORT_EVERY = 1.0  # seconds

_log = logging.getLogger("ray.serve")


def device_of(gpu: bool) -> str:
    """Return the torch device that a replica computes on: the GPU that Ray gave it, or "cpu".

    SEQVIS_GPU_DEVICE names another device for the GPU, for tests on machines without one.
    """
    return os.environ.get("SEQVIS_GPU_DEVICE", "cuda") if gpu else "cpu"


class Replica(Generic[Model]):
    """A replica with a model for each live version. The gateway calls its methods.

    Subclasses set `application`, implement `load` and `describe_model`, and call this constructor
    at the end of their own, since it loads the first models.
    """

    application: ClassVar[Application]

    def __init__(self, path: str | tuple[str, ...], store: Store | None):
        """Load what is live, and follow its changes from then on.

        A version that cannot be loaded does not keep a replica from starting if the one before it,
        or another live one, can be loaded.

        Args:
            path: of the version that is live as long as nothing else was made live.
            store: of the live versions; the head node's if left out.
        """
        keep_replica_local()
        self._store = store or Store()
        self._switches = switches_counter()
        self._models: dict[str, Model] = {}
        self._last_live: dict[str, float] = {}
        self._refused: dict[str, tuple[int, str]] = {}  # key -> (number of the change, reason)
        self._loading = threading.RLock()
        self._stopped = threading.Event()
        configure(self._store, self.application, [Version(name="default", path=path)])
        problem = self._follow()
        if not self._models:
            raise problem or SeqvisError(f"no version of {self.application} is live")
        self.repeat(FOLLOW_EVERY, self._follow)

    def load(self, version: Version) -> Model:
        """Open a version and try it. Whatever this raises means that it cannot be used."""
        raise NotImplementedError

    def release(self, model: Model) -> None:
        """Close a version that has not been live for half a minute."""

    def describe_model(self, model: Model) -> dict[str, Any]:
        """Return what GET /v1/models says about a version."""
        return {}

    def get(self, key: str) -> Model:
        """Return the model with this key. Raise VersionMissingError if it is not loaded."""
        try:
            return self._models[key]
        except KeyError:
            raise VersionMissingError(key) from None

    def models(self) -> list[Model]:
        """Return all loaded models."""
        return list(self._models.values())

    async def try_version(self, version: Version) -> None:
        """Load a version before it is live, and keep it for a while. Raise why it is unusable."""
        await asyncio.to_thread(self._try, version)

    async def describe(self) -> dict[str, Any]:
        """Return what each loaded version is, by key, and why live ones are not loaded."""
        models = {key: self.describe_model(model) for key, model in [*self._models.items()]}
        return {
            "versions": models,
            "refused": {key: reason for key, (_, reason) in self._refused.items()},
        }

    def check_health(self) -> None:
        """Raise an error if Serve should replace this replica; one that hangs does not return."""

    def stop(self) -> None:
        """Release all models and stop following."""
        self._stopped.set()
        with self._loading:
            for key in list(self._models):
                self.release(self._models.pop(key))

    def repeat(self, seconds: float, function: Callable[[], object]) -> None:
        """Call a function every so many seconds from a thread, whatever it raises, until `stop`."""

        def run() -> None:
            while not self._stopped.wait(seconds):
                try:
                    function()
                except Exception:  # the head node or a disk may be away: the replica goes on
                    _log.exception("%s of %s failed", function.__name__, self.application)

        threading.Thread(target=run, name=function.__name__, daemon=True).start()

    def _follow(self) -> Exception | None:
        """Load and release models as the store says; return why one cannot be loaded."""
        live = self._store.read(self.application)
        if live is None:
            return None
        problem: Exception | None = None
        with self._loading:
            for version in live.versions:
                problem = self._ensure_loaded(version, live.number) or problem
            if problem and not any(version_key(v) in self._models for v in live.versions):
                for version in live.previous:
                    self._ensure_loaded(version, live.number)
            self._release_unused()
        return problem

    def _ensure_loaded(self, version: Version, number: int) -> Exception | None:
        """Load a version. One that was refused is tried again when the live versions change."""
        key = version_key(version)
        self._last_live[key] = time.monotonic()
        if key in self._models or self._refused.get(key, (0, ""))[0] == number:
            return None
        try:
            self._open(version)
        except Exception as error:  # whatever is wrong with an artifact, the old one goes on
            self._refused[key] = (number, str(error))
            _log.error(redacted(json.dumps({"refused": key, "reason": str(error)})))
            return error
        return None

    def _try(self, version: Version) -> None:
        key = version_key(version)
        with self._loading:
            self._last_live[key] = time.monotonic()
            if key not in self._models:
                self._open(version)

    def _open(self, version: Version) -> None:
        key = version_key(version)
        self._refused.pop(key, None)
        try:
            self._models[key] = self.load(version)
        except BaseException:
            self._switches.inc(1, tags={"result": "refused"})
            raise
        self._switches.inc(1, tags={"result": "loaded"})

    def _release_unused(self) -> None:
        limit = time.monotonic() - KEEP_FOR
        for key in [key for key in self._models if self._last_live.get(key, 0.0) < limit]:
            if len(self._models) > 1:  # the last one stays, whatever is live
                self.release(self._models.pop(key))


class CallThreads:
    """A limited number of threads for one kind of call. Use it from a single event loop.

    A call runs a function whose last argument is a `Deadline`, which the function checks now and
    then: when the time is over or the caller has gone, the function ends and the thread is free.
    """

    def __init__(self, name: str, threads: int, most: int, timeout_s: float, cancelled: Counter):
        """
        Args:
            most: calls that may run or wait for a thread; more are refused at once.
            timeout_s: seconds that each has, its waiting included.
            cancelled: counts the calls whose caller has gone.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._timeout_s = most, timeout_s
        self._cancelled = cancelled
        self._running = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(*arguments, deadline)`. Raise SearchTimeoutError, and what it raises."""
        if self._running >= self._most:
            # Not BusyError: the gateway would keep all calls from this deployment for a while.
            raise SearchTimeoutError(f"{self._most} searches that take long are running already")
        deadline = Deadline(self._timeout_s)
        self._running += 1
        try:
            work = partial(function, *arguments, deadline)
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except asyncio.CancelledError:
            deadline.end()
            self._cancelled.inc()
            raise
        finally:
            self._running -= 1
