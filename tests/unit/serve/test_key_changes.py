"""Keys that are given out, withdrawn and changed while the server runs."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from seqvis.errors import ConfigError
from serve.common.keys import KeyFile, Keys, sha256_of
from serve.common.metrics import RequestMetrics
from serve.common.settings import Version
from serve.common.versions import configure
from serve.gateway.front import Front
from serve.gateway.live import LiveModels
from tests.support.serving import MemoryStore
from tests.unit.serve.test_front import Echo, client_of, published, settings, status_of, within


def write(file: Path, *names: str, **more: object) -> None:
    """A file with a key for each of these names, which is its name, and their common values."""
    entries = [
        {"name": name, "sha256": sha256_of(name), "scopes": ["translate"], **more} for name in names
    ]
    file.write_text(yaml.safe_dump(entries))


def names(keys: Keys | None) -> list[str] | None:
    return None if keys is None else [holder.name for holder in keys.holders]


class TestFile:
    def test_a_change_counts_once_it_has_been_read_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.yaml"
        write(path, "a")
        file = KeyFile(str(path))
        assert file.changed() is None
        write(path, "a", "b")
        assert file.changed() is None
        write(path, "b")
        assert file.changed() is None  # it is still being written
        assert names(file.changed()) == ["b"]
        assert file.changed() is None

    def test_an_empty_list_lets_nobody_in_any_more(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.yaml"
        write(path, "a")
        file = KeyFile(str(path))
        path.write_text("[]")
        file.changed()
        assert names(file.changed()) == []

    @pytest.mark.parametrize("text", ["", "- name: a\n", "[", None])
    def test_what_cannot_be_used_is_told_once(self, tmp_path: Path, text: str | None) -> None:
        path = tmp_path / "keys.yaml"
        write(path, "a")
        file = KeyFile(str(path))
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        assert file.changed() is None
        with pytest.raises(ConfigError, match=str(path)):
            file.changed()
        assert file.changed() is None
        write(path, "a")
        file.changed()
        assert names(file.changed()) == ["a"]

    def test_a_file_that_everybody_may_write_to_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.yaml"
        write(path, "a")
        path.chmod(0o666)
        with pytest.raises(ConfigError, match=f"chmod o-w {path}"):
            Keys.load(str(path))
        path.chmod(0o664)
        assert names(Keys.load(str(path))) == ["a"]


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    configure(store, "translator", [Version(name="default", path="m")])
    return store


def fronts(store: MemoryStore, file: Path, stack: ExitStack) -> tuple[TestClient, TestClient]:
    """A gateway that has the file, and a translator that takes requests itself."""
    known = settings(*Keys.load(str(file)).holders)
    store.publish_gateway(known.model_dump_json())
    live = LiveModels(store, Echo(), None)
    gateway = Front(known, live, store, RequestMetrics(), "gateway", KeyFile(str(file)))
    return client_of(gateway, stack), client_of(published(store), stack)


def test_a_key_is_withdrawn_and_another_given_out_without_a_restart(
    store: MemoryStore, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    write(file, "alice", "bob")
    with ExitStack() as stack:
        gateway, translator = fronts(store, file, stack)
        for front in (gateway, translator):
            assert [status_of(front, key) for key in ("alice", "bob", "carol")] == [200, 200, 401]
        write(tmp_path / "new", "bob", "carol")
        os.replace(tmp_path / "new", file)
        for front in (gateway, translator):
            assert within(10, lambda front=front: status_of(front, "alice") == 401)
            assert [status_of(front, key) for key in ("bob", "carol")] == [200, 200]
        file.write_text("[]")
        for front in (gateway, translator):
            assert within(10, lambda front=front: status_of(front, "bob") == 401)


def test_keys_stay_as_they_were_if_the_file_cannot_be_used(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.yaml"
    write(file, "alice")
    with ExitStack() as stack:
        gateway, translator = fronts(store, file, stack)
        write(file, "alice", "bob", scopes=["all"])
        assert within(10, lambda: '"keys": "refused"' in caplog.text)
        assert f"{file}: entry 1: scopes" in caplog.text
        assert [status_of(front, "alice") for front in (gateway, translator)] == [200, 200]
        write(file, "bob")
        assert within(10, lambda: status_of(gateway, "bob") == 200)


def test_what_a_key_has_used_up_stays_used_up_when_its_limit_changes(
    store: MemoryStore, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    write(file, "alice", requests_per_minute=1, burst=2)
    with ExitStack() as stack:
        gateway, translator = fronts(store, file, stack)
        for front in (gateway, translator):
            while status_of(front, "alice") == 200:
                pass
        write(file, "alice", "bob", requests_per_minute=1, burst=1)
        for front in (gateway, translator):
            assert within(10, lambda front=front: status_of(front, "bob") in (200, 429))
            assert status_of(front, "alice") == 429
        write(file, "alice")
        for front in (gateway, translator):
            assert within(10, lambda front=front: status_of(front, "alice") == 200)
