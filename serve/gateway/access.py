"""What a key allows on each route, and the audit log of changes and of what was refused.

Each replica writes its own file, a line of JSON for each change, and for each request that was not
allowed or came to no change. Unlike Serve's own logs, which are buffered, a line is on its way to
the disk before the client has its answer.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from seqvis.errors import redacted
from serve.common.http import ApiError, as_api_error
from serve.common.keys import SCOPES, KeyHolder, KeyScope
from serve.common.settings import Application, Version

_FILE_BYTES = 100 << 20
_FORMER_FILES = 5
_STRANGERS = 60  # lines a minute

KEY_FILE = "file of keys"  # no key can have this name

_log = logging.getLogger("seqvis.audit")

SCOPE_OF: dict[str, KeyScope | None] = {
    "POST /v1/translate": "translate",
    "POST /v1/search/text": "search",
    "POST /v1/search/like": "search",
    "POST /v1/search/image": "search",
    "POST /v1/search/batch": "search",
    "POST /v1/classify": "search",
    "GET /v1/images": "search",
    "GET /v1/images/{id:path}": "search",
    "POST /v1/images": "write",
    "POST /v1/images/batch": "write",
    "DELETE /v1/images": "write",
    "DELETE /v1/images/{id:path}": "write",
    "PUT /v1/models/{application}": "admin",
    "POST /translate": "translate",
    "POST /detect": "translate",
    "GET /languages": None,  # every key
    "GET /v1/models": None,
    "GET /healthz": None,
    "GET /readyz": None,
}
"""By method and path as the route declares them."""
CHANGING = ("write", "admin")
"""Scopes of the routes that change something: each of their requests is audited."""


class ScopedRoute(APIRoute):
    """A route that refuses callers whose key lacks its scope with ApiError (403).

    The check is part of the route itself, so no spelling of a path can bypass it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        # KeyError: a route that is missing from the table cannot be built.
        needed = {SCOPE_OF[f"{method} {self.path}"] for method in self.methods or ()}

        async def handle_if_allowed(request: Request) -> Response:
            held = request.state.caller.scopes
            for scope in needed:
                if scope is not None and scope not in held:
                    route = f"{request.method} {self.path}"
                    with audited("refused", *asker(request), route=route, scope=scope):
                        raise lacking(scope, held)
            try:
                return await handle(request)
            except Exception:
                if needed.intersection(CHANGING) and not request.state.audited:
                    route = f"{request.method} {self.path}"
                    with audited("refused", *asker(request), route=route):
                        raise
                raise

        return handle_if_allowed


def lacking(scope: KeyScope, held: tuple[KeyScope, ...]) -> ApiError:
    """Return the refusal of a key that has only the scopes `held`."""
    scopes = ", ".join(name for name in SCOPES if name == scope or name in held)
    return ApiError(
        403,
        f"this key lacks the scope {scope}; the operator adds it to the key's entry in the file "
        f"of keys: scopes: [{scopes}]",
        scope=scope,
    )


def write_audit_to(file: Path) -> None:
    """Have this process append its audit lines to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _log.handlers = [_OwnersFile(file, maxBytes=_FILE_BYTES, backupCount=_FORMER_FILES)]
    _log.setLevel(logging.INFO)
    _log.propagate = False


class _OwnersFile(RotatingFileHandler):
    """A log file that is only appended to, and that only its owner may read."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY
        return open(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8")


@contextmanager
def audited(
    action: str,
    key: str | None,
    request_id: str | None = None,
    address: str | None = None,
    **what: Any,
) -> Iterator[dict[str, Any]]:
    """Write an audit line at the block's end: `done`, or the code of the error that ended it.

    Yields the line, so that the block can add to it. `unknown` means that the request was
    cancelled, so that the change may have been made.

    Args:
        key: name of the key, or of what made the change; None for a stranger.
        address: where the request came from.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request_id,
        "key": key,
        "from": address,
        "action": action,
        **what,
        "outcome": "unknown",
    }
    try:
        yield line
        line["outcome"] = "done"
    except Exception as error:
        line["outcome"] = as_api_error(error).code
        raise
    finally:
        _log.info(json.dumps(line))


@contextmanager
def changing_models(
    application: Application,
    versions: Sequence[Version],
    key: str,
    request_id: str | None = None,
    address: str | None = None,
) -> Iterator[None]:
    """Audit a change of models; paths are named once they have been checked."""
    names = [version.name for version in versions]
    what = {"application": application, "versions": names}
    with audited("models", key, request_id, address, **what) as line:
        yield
        line["paths"] = [redacted(path) for version in versions for path in version.paths]


def audit_keys(before: Iterable[KeyHolder], now: Iterable[KeyHolder]) -> None:
    """Write an audit line of a change of the file of keys."""
    old, new = ({holder.name: holder for holder in holders} for holders in (before, now))
    both = [name for name in new if name in old]
    with audited(
        "keys",
        KEY_FILE,
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        changed=[name for name in both if new[name] != old[name]],
    ):
        pass


class StrangersAudit:
    """Audits requests without a key that is accepted.

    Nothing limits their number, and they must not push the others out of the log: of those above
    60 a minute the next line says only how many there were.
    """

    def __init__(self) -> None:
        self._minute = self._written = self._omitted = 0

    def write(self, error: ApiError, key: str | None, request: Mapping[str, Any]) -> None:
        """Write a line, if there may be one, for a request's ASGI scope and its refusal."""
        if (minute := int(time.monotonic() // 60)) != self._minute:
            self._minute, self._written = minute, 0
        if self._written >= _STRANGERS:
            self._omitted += 1
            return
        self._written += 1
        more = {"omitted": self._omitted} if self._omitted else {}
        self._omitted = 0
        route, state = f"{request['method']} {request['path'][:100]}", request["state"]
        with (
            suppress(ApiError),
            audited("refused", key, state["request_id"], state["address"], route=route, **more),
        ):
            raise error


def asker(request: Request) -> tuple[str, str, str]:
    """Return the name of a request's key, its id and its client's address, for its audit line."""
    state = request.state
    state.audited = True
    return state.caller.name, state.request_id, state.address
