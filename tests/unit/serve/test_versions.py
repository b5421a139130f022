"""How replicas follow what is wanted: load first, then switch; refuse what is bad; let go late."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from seqvis.errors import ArtifactError
from serve.common import versions
from serve.common.http import UnavailableError
from serve.common.settings import Application, Version, Work
from serve.common.versions import (
    Follower,
    VersionMissingError,
    Wanted,
    change,
    configure,
    version_key,
)
from serve.gateway.live import LiveModels
from serve.gateway.router import Router
from tests.support.serving import MemoryStore

A, B, BAD = (Version(name=name, path=f"/models/{name}") for name in ("a", "b", "bad"))


class Models:
    """Loads names; refuses `bad`."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.released: list[str] = []
        self.told: list[tuple[str, bool]] = []

    def load(self, version: Version) -> str:
        if version.name == "bad":
            raise ArtifactError("bad: is damaged")
        self.loaded.append(version.name)
        return version.name

    def follower(self, store: MemoryStore) -> Follower[str]:
        told: Callable[[str, bool], None] = lambda name, good: self.told.append((name, good))  # noqa: E731
        return Follower("translator", store, self.load, self.released.append, told)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "FOLLOW_EVERY", 0.01)
    monkeypatch.setattr(versions, "KEEP_FOR", 0.2)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_new_version_is_loaded_beside_the_old_one_which_goes_later() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [A])
    follower = models.follower(store)
    follower.start()
    assert follower.get(version_key(A)) == "a"
    change(store, "translator", [B])
    wait_until(lambda: version_key(B) in follower.loaded())
    assert follower.get(version_key(A)) == "a", "the gateway may still ask for it"
    wait_until(lambda: models.released == ["a"])
    with pytest.raises(VersionMissingError):
        follower.get(version_key(A))
    follower.stop()
    assert models.released == ["a", "b"]


def test_a_bad_version_is_refused_once_and_the_old_one_stays() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [A])
    follower = models.follower(store)
    follower.start()
    change(store, "translator", [BAD])
    wait_until(lambda: version_key(BAD) in follower.refused())
    time.sleep(0.5)
    assert follower.get(version_key(A)) == "a"
    assert follower.refused() == {version_key(BAD): "bad: is damaged"}
    assert models.told == [("a", True), ("bad", False)], "it is not tried again and again"
    follower.stop()


def test_a_replica_that_starts_under_a_bad_version_takes_the_one_before() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [A])
    change(store, "translator", [BAD])
    follower = models.follower(store)
    follower.start()
    assert follower.get(version_key(A)) == "a"
    follower.stop()


def test_a_replica_that_can_load_nothing_does_not_start() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [BAD])
    with pytest.raises(ArtifactError, match="damaged"):
        models.follower(store).start()


def test_what_the_api_changed_outlives_a_restart_with_the_same_configuration() -> None:
    store = MemoryStore()
    configure(store, "translator", [A])
    change(store, "translator", [B])
    assert configure(store, "translator", [A]).versions == (B,)
    assert configure(store, "translator", [BAD]).versions == (BAD,), "another one counts"


def test_a_version_can_be_tried_before_it_is_wanted() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [A])
    follower = models.follower(store)
    follower.start()
    follower.try_version(B)
    assert follower.get(version_key(B)) == "b"
    with pytest.raises(ArtifactError):
        follower.try_version(BAD)
    change(store, "translator", [B])
    wait_until(lambda: "a" in models.released)
    assert models.loaded == ["a", "b"], "it is not loaded twice"
    follower.stop()


def test_a_name_that_comes_to_mean_another_path_is_another_version() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [A])
    follower = models.follower(store)
    follower.start()
    moved = Version(name="a", path="/models/elsewhere")
    change(store, "translator", [moved])
    wait_until(lambda: version_key(moved) in follower.loaded())
    assert models.loaded == ["a", "a"]
    follower.stop()


def test_what_is_wanted_lists_live_versions_before_those_before_them() -> None:
    wanted = Wanted(versions=(B,), previous=(A, B))
    assert wanted.all() == (B, A)


def test_many_threads_may_ask_while_versions_change() -> None:
    store, models = MemoryStore(), Models()
    configure(store, "translator", [A])
    follower = models.follower(store)
    follower.start()
    problems: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            wanted = store.read("translator")
            assert wanted is not None
            found = 0
            for version in wanted.all():
                try:
                    follower.get(version_key(version))
                    found += 1
                except VersionMissingError:
                    continue
            if not found:
                problems.append(AssertionError(f"none of {wanted.all()} is loaded"))

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
    follower.stop()


class Unreadable(MemoryStore):
    def read(self, application: Application) -> Wanted | None:
        raise OSError("the head node is away")


@pytest.mark.parametrize("store", [MemoryStore(), Unreadable()])
def test_a_gateway_that_has_just_come_waits_until_it_has_looked_what_is_live(
    store: MemoryStore,
) -> None:
    """Also where looking failed: then it refuses as one does whose models are not known."""

    class Echo:
        async def call(self, method: str, version: str, texts: Any, work: Work) -> list[Any]:
            return [version, *texts]

    async def first_request() -> tuple[str, list[Any]]:
        live = LiveModels(store, Echo(), None)  # type: ignore[arg-type]
        following = asyncio.create_task(live.follow())
        await asyncio.wait_for(live.wait_until_ready(), 10)
        try:
            return await Router(live).translate(["x"], Work(), None)
        finally:
            following.cancel()

    if isinstance(store, Unreadable):
        with pytest.raises(UnavailableError, match="starting"):
            asyncio.run(first_request())
    else:
        configure(store, "translator", [A])
        assert asyncio.run(first_request()) == ("a", [version_key(A), "x"])
