"""How replicas follow what is wanted: load first, then switch; refuse what is bad; let go late."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from seqvis.errors import ArtifactError
from serve.common.http import UnavailableError
from serve.common.settings import Application, TranslateOptions, Version
from serve.common.versions import (
    LiveVersions,
    VersionMissingError,
    change,
    configure,
    version_key,
)
from serve.gateway.live import LiveModels
from serve.replicas import base
from serve.replicas.base import Replica
from tests.support.serving import MemoryStore

A = Version(name="default", path="/models/a")
B, BAD = (Version(name=name, path=f"/models/{name}") for name in ("b", "bad"))


class Names(Replica[str]):
    """Loads the last part of a path; refuses `bad`."""

    application = "translator"

    def __init__(self, store: MemoryStore, first: Version = A):
        self.loaded: list[str] = []
        self.released: list[str] = []
        super().__init__(first.path, store)

    def load(self, version: Version) -> str:
        name = version.path.rpartition("/")[2]
        self.loaded.append(name)
        if name == "bad":
            raise ArtifactError("bad: is damaged")
        return name

    def release(self, model: str) -> None:
        self.released.append(model)

    def described(self) -> dict[str, Any]:
        return asyncio.run(self.describe())


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "FOLLOW_EVERY", 0.01)
    monkeypatch.setattr(base, "KEEP_FOR", 0.2)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_new_version_is_loaded_beside_the_old_one_which_goes_later() -> None:
    store = MemoryStore()
    replica = Names(store)
    assert replica.get(version_key(A)) == "a"
    change(store, "translator", [B])
    wait_until(lambda: version_key(B) in replica.described()["versions"])
    assert replica.get(version_key(A)) == "a", "the gateway may still ask for it"
    wait_until(lambda: replica.released == ["a"])
    with pytest.raises(VersionMissingError):
        replica.get(version_key(A))
    replica.stop()
    assert replica.released == ["a", "b"]


def test_a_bad_version_is_refused_once_and_the_old_one_stays() -> None:
    store = MemoryStore()
    replica = Names(store)
    change(store, "translator", [BAD])
    wait_until(lambda: version_key(BAD) in replica.described()["refused"])
    time.sleep(0.5)
    assert replica.get(version_key(A)) == "a"
    assert replica.described()["refused"] == {version_key(BAD): "bad: is damaged"}
    assert replica.loaded == ["a", "bad"], "it is not tried again and again"
    replica.stop()


def test_a_replica_that_starts_under_a_bad_version_takes_the_one_before() -> None:
    store = MemoryStore()
    configure(store, "translator", [A])
    change(store, "translator", [BAD])
    replica = Names(store)
    assert replica.get(version_key(A)) == "a"
    replica.stop()


def test_a_replica_that_can_load_nothing_does_not_start() -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        Names(MemoryStore(), BAD)


def test_what_the_api_changed_outlives_a_restart_with_the_same_configuration() -> None:
    store = MemoryStore()
    configure(store, "translator", [A])
    change(store, "translator", [B])
    assert configure(store, "translator", [A]).versions == (B,)
    assert configure(store, "translator", [BAD]).versions == (BAD,), "another one counts"


def test_a_version_can_be_tried_before_it_is_wanted() -> None:
    store = MemoryStore()
    replica = Names(store)
    asyncio.run(replica.try_version(B))
    assert replica.get(version_key(B)) == "b"
    with pytest.raises(ArtifactError):
        asyncio.run(replica.try_version(BAD))
    change(store, "translator", [B])
    wait_until(lambda: "a" in replica.released)
    assert replica.loaded == ["a", "b", "bad"], "it is not loaded twice"
    replica.stop()


def test_a_name_that_comes_to_mean_another_path_is_another_version() -> None:
    store = MemoryStore()
    replica = Names(store)
    moved = Version(name=A.name, path="/models/elsewhere")
    change(store, "translator", [moved])
    wait_until(lambda: version_key(moved) in replica.described()["versions"])
    assert replica.loaded == ["a", "elsewhere"]
    replica.stop()


def test_what_is_wanted_lists_live_versions_before_those_before_them() -> None:
    wanted = LiveVersions(versions=(B,), previous=(A, B))
    assert wanted.all() == (B, A)


def test_many_threads_may_ask_while_versions_change() -> None:
    store = MemoryStore()
    replica = Names(store)
    problems: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            wanted = store.read("translator")
            assert wanted is not None
            loaded = 0
            for version in wanted.all():
                try:
                    replica.get(version_key(version))
                    loaded += 1
                except VersionMissingError:
                    continue
            if not loaded:
                problems.append(AssertionError(f"none of {wanted.all()} is loaded"))
            time.sleep(0.001)  # the replica's own thread needs a turn

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        change(store, "translator", [(A, B)[number % 2]])
        time.sleep(0.03)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems
    replica.stop()


class Unreadable(MemoryStore):
    def read(self, application: Application) -> LiveVersions | None:
        raise OSError("the head node is away")


@pytest.mark.parametrize("store", [MemoryStore(), Unreadable()])
def test_a_gateway_that_has_just_come_waits_until_it_has_looked_what_is_live(
    store: MemoryStore,
) -> None:
    """Also where looking failed: then it refuses as one does whose models are not known."""

    class Echo:
        async def translate(self, version: str, texts: Any, options: Any) -> list[Any]:
            return [version, *texts]

    async def first_request() -> tuple[str, list[Any]]:
        echo = Echo()
        live = LiveModels(store, echo, None)  # type: ignore[arg-type]
        following = asyncio.create_task(live.follow())
        await asyncio.wait_for(live.wait_until_ready(), 10)
        try:
            return await live.ask(
                "translator", None, lambda key: echo.translate(key, ["x"], TranslateOptions())
            )
        finally:
            following.cancel()

    if isinstance(store, Unreadable):
        with pytest.raises(UnavailableError, match="starting"):
            asyncio.run(first_request())
    else:
        configure(store, "translator", [A])
        assert asyncio.run(first_request()) == ("default", [version_key(A), "x"])
