"""The writer on a disk that fills: what clients are told, and that it goes on by itself."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.items import Item
from serve.common.http import UnavailableError, as_api_error
from serve.common.settings import ImageSearchSettings
from serve.replicas.collection import WriterReplica
from tests.support.serving import MemoryStore
from tests.unit.serve.test_encoder import Counted

THUMBNAIL = bytes(20_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting")
    yield small
    subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_full_disk_is_named_and_changes_go_on_once_there_is_room(small_disk: Path) -> None:
    folder = small_disk / "c"
    Collection.create(folder, 2).close()
    writer = WriterReplica(ImageSearchSettings(collection=str(folder)), MemoryStore())
    key = f"default={folder}"

    async def add(name: str) -> None:
        await writer.add(key, [Item(name, np.ones(2), {"a": 1}, THUMBNAIL)])

    async def change() -> None:
        await add("before")
        (small_disk / "something else").write_bytes(bytes(300_000))
        with pytest.raises(UnavailableError) as caught:
            await asyncio.gather(*(add(f"{number}") for number in range(20)))
        error = as_api_error(caught.value)
        assert (error.status, error.code) == (503, "unavailable")
        assert "No space left" in str(error)
        assert str(small_disk) not in str(error)
        assert error.retry_after
        assert await writer.delete(key, "before")
        with Collection.open(folder, read_only=True) as reader:
            assert [match.id for match in reader.search(np.ones(2), 1)]
            assert "before" not in reader
        (small_disk / "something else").unlink()
        await add("after")
        with Collection.open(folder, read_only=True) as reader:
            assert "after" in reader

    try:
        asyncio.run(change())
    finally:
        writer.stop()


def test_a_change_that_has_not_begun_when_its_caller_goes_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    Collection.create(folder, 2).close()
    writer = WriterReplica(ImageSearchSettings(collection=str(folder)), MemoryStore())
    writer._cancelled = counted = Counted()  # type: ignore[assignment]
    key, go_on = f"default={folder}", threading.Event()

    async def change() -> None:
        for _ in range(8):  # all of its threads
            writer._pool.submit(go_on.wait, 10)
        tasks = [
            asyncio.create_task(writer.add(key, [Item(f"{number}", np.ones(2), {}, b"")]))
            for number in range(3)
        ]
        await asyncio.sleep(0.05)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.wait(tasks[:2])
        go_on.set()
        await tasks[2]

    try:
        asyncio.run(change())
    finally:
        writer.stop()
    assert counted.count == 2
    with Collection.open(folder) as collection:
        assert list(collection.ids()) == ["2"]
