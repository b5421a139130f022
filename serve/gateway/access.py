"""What a key allows on each route, and the audit log of changes and of what was not allowed.

Each replica writes its own file, a line of JSON for each change and each refusal. Unlike Serve's
own logs, which are buffered, a line is on its way to the disk before the client has its answer.
"""

import json
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from seqvis.errors import redacted
from serve.common.http import ApiError, as_api_error
from serve.common.keys import SCOPES, KeyScope
from serve.common.settings import Application, Version

_FILE_BYTES = 100 << 20
_FORMER_FILES = 5

_log = logging.getLogger("seqvis.audit")

SCOPE_OF: dict[str, KeyScope | None] = {
    "POST /v1/translate": "translate",
    "POST /v1/search/text": "search",
    "POST /v1/search/like": "search",
    "POST /v1/search/image": "search",
    "POST /v1/classify": "search",
    "GET /v1/images": "search",
    "GET /v1/images/{id:path}": "search",
    "POST /v1/images": "write",
    "DELETE /v1/images": "write",
    "DELETE /v1/images/{id:path}": "write",
    "PUT /v1/models/{application}": "admin",
    "GET /v1/models": None,  # every key
    "GET /healthz": None,
    "GET /readyz": None,
}
"""By method and path as the route declares them."""


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
            return await handle(request)

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
    _log.handlers = [RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_FORMER_FILES)]
    _log.setLevel(logging.INFO)
    _log.propagate = False


@contextmanager
def audited(action: str, key: str, request_id: str | None, **what: Any) -> Iterator[dict[str, Any]]:
    """Write an audit line at the block's end: `done`, or the code of the error that ended it.

    Yields the line, so that the block can add to it. `unknown` means that the request was
    cancelled, so that the change may have been made.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request_id,
        "key": key,
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
    application: Application, versions: Sequence[Version], key: str, request_id: str | None
) -> Iterator[None]:
    """Audit a change of models; paths are named once they have been checked."""
    names = [version.name for version in versions]
    with audited("models", key, request_id, application=application, versions=names) as line:
        yield
        line["paths"] = [redacted(path) for version in versions for path in version.paths]


def asker(request: Request) -> tuple[str, str]:
    """Return the name of a request's key, and the request's id."""
    return request.state.caller.name, request.state.request_id
