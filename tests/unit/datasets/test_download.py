"""Downloads: resuming, waiting, checksums and sizes, full disks."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from jobs import fetch_data
from seqvis.datasets import download as downloading
from seqvis.datasets.download import Patience, download
from seqvis.errors import DataError, StorageError
from tests.support.site import CONTENT, HURRY, Site


def get(site: Site, target: Path, **options: Any) -> downloading.Transfer:
    return download(f"{site.url}/big", target, patience=HURRY, **options)


def test_a_transfer_that_breaks_off_mid_file_goes_on_where_it_stopped(
    site: Site, tmp_path: Path
) -> None:
    site.files["/big"], site.tags["/big"] = CONTENT, '"one"'
    site.cuts = [1_000_000, 500_000]
    transfer = get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert [span for _, span in site.requests] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert transfer.fetched == len(CONTENT)
    assert transfer.resumed == 1_500_000
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_a_second_run_goes_on_from_the_first_ones_part(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.tags["/big"] = CONTENT, '"one"'
    site.cuts, site.states = [1_000_000], [200, 503, 503, 503]
    with pytest.raises(DataError, match=r"big: cannot be fetched .*503.* 1,000,000 bytes"):
        get(site, tmp_path / "big")
    assert not (tmp_path / "big").exists()
    transfer = get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert (transfer.fetched, transfer.resumed) == (2_000_000, 1_000_000)


@pytest.mark.parametrize("tagged", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    tagged: bool, site: Site, tmp_path: Path
) -> None:
    site.files["/big"], site.tags["/big"] = CONTENT, '"one"' if tagged else ""
    site.cuts, site.states = [1_000_000], [200, 503, 503, 503]
    with pytest.raises(DataError):
        get(site, tmp_path / "big")
    changed = CONTENT[::-1] if tagged else CONTENT[::-1] + b"longer"  # the tag alone must do
    site.files["/big"], site.tags["/big"] = changed, '"two"' if tagged else ""
    get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == changed


def test_a_file_that_shrank_meanwhile_is_fetched_from_its_start(site: Site, tmp_path: Path) -> None:
    site.files["/big"] = CONTENT
    site.cuts, site.states = [1_000_000], [200, 503, 503, 503]
    with pytest.raises(DataError):
        get(site, tmp_path / "big")
    site.files["/big"] = b"short"
    get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == b"short"


def test_a_server_without_ranges_starts_again_and_never_doubles_bytes(
    site: Site, tmp_path: Path
) -> None:
    site.files["/big"], site.tags["/big"], site.ranges = CONTENT, '"one"', False
    site.cuts = [1_000_000]
    transfer = get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert (transfer.fetched, transfer.resumed) == (4_000_000, 0)


def test_a_server_that_never_gets_further_is_given_up(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.ranges, site.cuts = CONTENT, False, [1000] * 50
    with pytest.raises(DataError, match="ended after 1,000 of 3,000,000 bytes"):
        get(site, tmp_path / "big")
    assert len(site.requests) <= 4


def test_a_broken_transfer_of_unknown_length_is_noticed(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.tags["/big"], site.chunked = CONTENT, '"one"', True
    site.cuts = [1_000_000]
    get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT


def test_errors_that_pass_are_waited_for_and_others_are_not(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.states = CONTENT, [500, 429]
    get(site, tmp_path / "big")
    assert len(site.requests) == 3
    site.requests.clear()
    with pytest.raises(DataError, match="/gone: the server answers 404"):
        download(f"{site.url}/gone", tmp_path / "gone", patience=HURRY)
    assert len(site.requests) == 1


@pytest.mark.parametrize("method", ["md5", "sha256"])
def test_a_published_checksum_is_compared(method: str, site: Site, tmp_path: Path) -> None:
    site.files["/big"] = CONTENT
    right = f"{method}:{hashlib.new(method, CONTENT).hexdigest()}"
    with pytest.raises(DataError, match=rf"/big: has {method} .* was published"):
        get(site, tmp_path / "big", checksum=right[:-1] + ("0" if right[-1] != "0" else "1"))
    assert list(tmp_path.iterdir()) == []  # what is wrong is not kept to go on from
    get(site, tmp_path / "big", checksum=right)
    assert (tmp_path / "big").stat().st_size == len(CONTENT)


def test_a_published_size_is_compared_before_gigabytes_are_fetched(
    site: Site, tmp_path: Path
) -> None:
    site.files["/big"] = CONTENT
    with pytest.raises(DataError, match="is 3,000,000 bytes, but 5 were published"):
        get(site, tmp_path / "big", size=5)
    assert not (tmp_path / "big").exists()


def test_without_a_connection_one_error_names_the_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Patience, "wait", lambda self, failures, asked_for: None)
    code = fetch_data.main(
        ["--dataset", "tatoeba", "--out", str(tmp_path / "x"), "--base-url", "http://127.0.0.1:9"]
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(lines) == 1
    assert "http://127.0.0.1:9/OPUS-Tatoeba" in lines[0]
    assert "check the network" in lines[0]


def test_a_full_disk_is_said_before_and_while_writing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/big"] = CONTENT
    usage = downloading.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(downloading.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(StorageError, match=r"needs 3,000,000 bytes .* has 1,000"):
            get(site, tmp_path / "big")
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    (tmp_path / "big.part").symlink_to("/dev/full")
    (tmp_path / "big.part.json").unlink(missing_ok=True)
    monkeypatch.setattr(downloading._Download, "_write_notes", lambda self, version: None)
    with pytest.raises(StorageError, match="the disk is full"):
        get(site, tmp_path / "big")
