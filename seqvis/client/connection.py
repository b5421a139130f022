"""Requests to a server over connections that stay open, repeated where that helps.

Every request of the interface may be repeated: a translation or a search changes nothing, and to
add or to delete a picture twice does what it does once, as a picture without an id gets one by its
content. So a request is sent again if it was refused for the moment (429, 503), after the seconds
that Retry-After asks for, or if there was no connection or it broke. One whose answer is late is
not: the server would do its work twice.
"""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError
from urllib3.filepost import encode_multipart_formdata

import seqvis
from seqvis.client.errors import OverloadedError, UnreachableError, error_inside, error_of
from seqvis.errors import ConfigError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds, where Retry-After asks for no more
_BROKEN = (ConnectTimeoutError, NewConnectionError, ProtocolError)
_REQUEST_ID, _RETRY_AFTER = "x-request-id", "retry-after"

Form = Sequence[tuple[str, str | bytes | None]]


class Connection:
    """A server's address and the connections to it. Threads may share one."""

    def __init__(
        self, url: str, key: str | None, timeout: float, retries: int, longest_wait: float
    ):
        """
        Args:
            timeout: seconds without a byte of the answer after which it is given up.
            retries: how often a request is sent again.
            longest_wait: seconds; if Retry-After asks for more, the error is raised at once.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
            raise ConfigError(f"{url}: is no server's address, such as http://127.0.0.1:8000")
        self._url = url.rstrip("/")
        self._headers = {"user-agent": f"seqvis/{seqvis.__version__}"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._pool = urllib3.PoolManager(maxsize=16, timeout=timeout, retries=False)
        self._retries, self._longest_wait = retries, longest_wait

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def json(self, method: str, path: str, **request: Any) -> Any:
        """Return an answer's JSON; arguments as of `ask`."""
        return json.loads(self.ask(method, path, **request).data)

    def lines(self, method: str, path: str, **request: Any) -> Iterator[Any]:
        """Yield the lines of an answer of JSON as they come; raise the error that one says.

        Nothing is asked for again once the answer has begun.
        """
        with closing(self.ask(method, path, stream=True, **request)) as response:
            request_id = response.headers.get(_REQUEST_ID)
            try:
                for line in response:
                    item = json.loads(line)
                    if "error" in item:
                        raise error_inside(item["error"], request_id)
                    yield item
            except HTTPError as error:
                raise UnreachableError(f"{self._url}: {error}", request_id=request_id) from error

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        form: Form | None = None,
        retries: int | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, with the same id each time, and return the answer; raise ClientError.

        Values of `query`, `body` and `form` that are None are left out.

        Args:
            body: is sent as JSON.
            form: is sent as multipart, its bytes as files.
            retries: in place of the connection's own.
            stream: leave the answer's body to be read.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self._url}{path}?{urlencode(given)}" if given else f"{self._url}{path}"
        headers = {**self._headers, _REQUEST_ID: uuid4().hex}
        content: bytes | None = None
        if body is not None:
            given = {name: value for name, value in body.items() if value is not None}
            content = json.dumps(given, ensure_ascii=False).encode()
            headers["content-type"] = "application/json"
        elif form is not None:
            content, headers["content-type"] = encode_multipart_formdata(
                [(name, _field(value)) for name, value in form if value is not None]
            )
        left = self._retries if retries is None else retries
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._send(method, url, headers, content, stream)
            except (OverloadedError, UnreachableError) as error:
                asked = error.retry_after or 0.0
                late = isinstance(error, UnreachableError) and not isinstance(
                    error.__cause__, _BROKEN
                )
                if late or not left or asked > self._longest_wait:
                    raise
            left -= 1
            # Never sooner than the server asks, and not all clients at once.
            time.sleep(max(asked, pause) * random.uniform(1.0, 1.25))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        request_id = headers[_REQUEST_ID]
        try:
            response = self._pool.request(
                method, url, body=content, headers=headers, preload_content=not stream
            )
            if response.status < 300:
                return response
            wait = _seconds(response.headers.get(_RETRY_AFTER))
            raise error_of(response.status, response.data, request_id, wait)
        except HTTPError as error:
            raise UnreachableError(f"{self._url}: {error}", request_id=request_id) from error


def _field(value: str | bytes) -> str | tuple[str, bytes]:
    return ("file", value) if isinstance(value, bytes) else value


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After asks for, which may be a date."""
    if retry_after is None:
        return None
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
