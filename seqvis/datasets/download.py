"""Download one file over HTTP, resuming after a lost connection or a killed process.

The result is the whole, verified file, or one error that names the address. The part that has
arrived is kept in NAME.part, and NAME.part.json records which version of the file it belongs to
(its ETag or date), so that a file that changed at its source is fetched from the start instead of
being pieced together from two versions. The file gets its name only when it is complete.
"""

import hashlib
import http.client
import json
import logging
import os
import random
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqvis.errors import DataError, StorageError
from seqvis.storage import storage_errors

_log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_PASSING = (
    408,
    425,
    429,
    500,
    502,
    503,
    504,
)  # HTTP states after which a later attempt may succeed
# Some hosts refuse Python's own name.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; seqvis)", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Patience:
    """How long to keep trying: `attempts` failures in a row without progress end a download."""

    attempts: int = 5
    first_wait: float = 1.0  # seconds; doubles each time, up to `longest_wait`
    longest_wait: float = 30.0
    timeout: float = 60.0  # seconds without a byte

    def wait(self, failures: int, asked_for: float) -> None:
        doubled = min(self.first_wait * 2 ** (failures - 1), self.longest_wait)
        time.sleep(max(min(asked_for, self.longest_wait), doubled * random.uniform(0.75, 1.25)))


@dataclass(frozen=True)
class Transfer:
    """The traffic of a download: bytes fetched over the network, and bytes already there."""

    fetched: int
    resumed: int


@dataclass(frozen=True)
class _Version:
    """The version of a file that a part belongs to."""

    url: str
    validator: str  # a strong ETag or a Last-Modified date; empty if the server gave neither
    total: int | None


class _PassingError(Exception):
    """A failed attempt that is worth repeating."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    target: Path,
    size: int | None = None,
    checksum: str | None = None,
    patience: Patience | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Transfer:
    """Fetch `url` to `target`; a whole `target` that is there already is left alone.

    `size` (bytes) and `checksum` ("md5:..." or "sha256:...") are checked where given. `progress`
    is called with the bytes that are here and the bytes of the whole file. Raises DataError if
    the address cannot be reached or gives something else, StorageError if the disk is full.
    """
    if target.exists():
        return Transfer(0, 0)
    patience = patience or Patience()
    job = _Download(url, target, size, patience.timeout, progress)
    with storage_errors(str(target.parent)):
        target.parent.mkdir(parents=True, exist_ok=True)
    failures, furthest = 0, job.here()
    while True:
        try:
            job.attempt()
            break
        except _PassingError as error:
            failures = 1 if job.here() > furthest else failures + 1
            furthest = max(furthest, job.here())
            if failures >= patience.attempts:
                raise DataError(
                    f"{url}: cannot be fetched ({error}); check the network and run the same "
                    f"command again, it goes on from {job.here():,} bytes"
                ) from error
            _log.warning("%s: %s; trying again", url, error)
            patience.wait(failures, error.wait)
    _check_sum(url, job.part, checksum)
    with storage_errors(str(target)):
        os.replace(job.part, target)
        job.notes.unlink(missing_ok=True)
    return Transfer(job.fetched, job.resumed)


class _Download:
    """The attempts to download one file."""

    def __init__(
        self,
        url: str,
        target: Path,
        size: int | None,
        timeout: float,
        progress: Callable[[int, int | None], None],
    ):
        self.url = url
        self.part = target.with_name(target.name + ".part")
        self.notes = target.with_name(target.name + ".part.json")
        self.fetched = 0
        self.resumed = 0
        self._size = size
        self._timeout = timeout
        self._progress = progress

    def here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def attempt(self) -> None:
        """Fetch what is missing. Raises _PassingError if it comes to an early end."""
        version, begin = self._version(), self.here()
        if version is None:
            begin = 0
        elif version.total == begin:
            return
        request = urllib.request.Request(self.url, headers=_HEADERS)
        if begin and version is not None:
            request.add_header("Range", f"bytes={begin}-")
            if version.validator:
                request.add_header("If-Range", version.validator)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                self._receive(response, version, begin)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DataError(f"{self.url}: its certificate is not valid ({error})") from error
            raise _PassingError(f"no connection: {error.reason}") from error
        except (http.client.HTTPException, OSError) as error:
            raise _PassingError(f"the connection broke: {error or type(error).__name__}") from error

    def _receive(self, response: Any, version: _Version | None, begin: int) -> None:
        length = response.headers.get("Content-Length")
        coming = int(length) if length and length.isdigit() else None
        if response.status == 206:
            span = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
            )
            total = int(span[2]) if span and span[2].isdigit() else None
            known = version.total if version is not None else None
            same = total == known or total is None or known is None
            if span is None or int(span[1]) != begin or not same:
                self._restart("the file changed at its source")
        else:  # 200: the whole file, since it changed or this server knows no ranges
            begin, total = 0, coming
            self._write_notes(_Version(self.url, _validator(response.headers), total))
        if self._size is not None and total is not None and total != self._size:
            self._discard()
            raise DataError(
                f"{self.url}: is {total:,} bytes, but {self._size:,} were published; "
                f"its publisher may have replaced it (--no-verify takes it as it is)"
            )
        self.resumed = begin
        self._check_space((total or 0) - begin)
        self._copy(response, begin, total)
        if total is not None and self.here() < total:
            raise _PassingError(f"the connection ended after {self.here():,} of {total:,} bytes")

    def _copy(self, response: Any, begin: int, total: int | None) -> None:
        try:
            file = self.part.open("r+b" if begin else "wb")
        except OSError as error:
            raise _storage_error(self.part, error) from error
        with file:
            file.seek(begin)
            done = begin
            self._progress(done, total)
            while block := response.read(_BLOCK):
                try:
                    file.write(block)
                    file.flush()
                except OSError as error:
                    raise _storage_error(self.part, error) from error
                done += len(block)
                self.fetched += len(block)
                self._progress(done, total)

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == 416:  # the part is longer than the file is now
            self._restart("the file changed at its source")
        if error.code in _PASSING:
            retry_after = error.headers.get("Retry-After", "")
            wait = float(retry_after) if retry_after.isdigit() else 0.0
            raise _PassingError(f"the server answers {error.code} {error.reason}", wait) from error
        raise DataError(
            f"{self.url}: the server answers {error.code} {error.reason}; the file may have "
            f"moved: fetch it by hand, or from a mirror with --base-url"
        ) from error

    def _restart(self, reason: str) -> None:
        self._discard()
        raise _PassingError(reason)

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _version(self) -> _Version | None:
        """Return the version of the part; None if there is no part that can be trusted."""
        try:
            version = _Version(**json.loads(self.notes.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        known = version.validator or version.total is not None
        return version if version.url == self.url and known and self.part.exists() else None

    def _write_notes(self, version: _Version) -> None:
        with storage_errors(str(self.notes)):
            self.part.unlink(missing_ok=True)
            self.notes.write_text(json.dumps(asdict(version)))

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise StorageError(
                f"{self.part.parent}: needs {needed:,} bytes for {self.url} and has {free:,}; "
                f"free some space and run the same command again"
            )


def _validator(headers: Any) -> str:
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _storage_error(path: Path, error: OSError) -> StorageError:
    try:
        with storage_errors(str(path)):
            raise error
    except StorageError as explained:
        return explained


def _check_sum(url: str, part: Path, checksum: str | None) -> None:
    if checksum is None:
        return
    method, expected = checksum.split(":", 1)
    with part.open("rb") as file:
        computed = hashlib.file_digest(file, method).hexdigest()
    if computed != expected:
        part.unlink()
        part.with_name(part.name + ".json").unlink(missing_ok=True)
        raise DataError(
            f"{url}: has {method} {computed}, but {expected} was published; it was deleted: run "
            f"the same command again, and if that repeats, its publisher may have replaced it "
            f"(--no-verify takes it as it is)"
        )
