"""ASGI middleware: request IDs, authentication, rate limits and the access log; error handlers.

The body limit is checked here as well as in the proxy, because the gateway can be reached directly.
"""

import asyncio
import ipaddress
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqvis.errors import SeqvisError
from serve.common.http import (
    ANSWERED,
    CLIENT,
    REQUEST_ID,
    ApiError,
    Bodies,
    Body,
    as_api_error,
    response,
)
from serve.common.keys import SCOPES, Keys, KeyScope, check_local, presented_key
from serve.common.metrics import RequestRecord
from serve.common.rates import RateLimiter
from serve.common.settings import GatewaySettings
from serve.common.tracing import name_request
from serve.gateway import libretranslate
from serve.gateway.access import StrangersAudit

_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN = ("/healthz", "/readyz")  # load balancers have no key
_PAGES = ("/", "/docs")  # other sites may link to them
_STATIC = (*_PAGES, "/openapi.json")  # the page asks for the key itself
_FILES = ("/page/", "/docs/files/")  # of these pages
_FORWARDED = ("x-forwarded-for", "forwarded", "via", "x-real-ip")
_TAKEN_WITHIN = 60.0  # seconds for a client to take a piece of an answer
_RETRY_DRAINING = 5.0  # seconds until another server may have replaced one that is stopped
_SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Caller:
    """The caller of a request: a key's name, or `local`, and what it allows."""

    name: str
    scopes: tuple[KeyScope, ...]


class RequestMiddleware:
    """The ASGI middleware around the API. It is plain ASGI, since every request pays for it."""

    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        keys: Keys | None,
        draining: Callable[[], bool],
        record: Callable[[RequestRecord], None],
    ):
        """`keys` None: only this machine may ask. `record` is called with every answer."""
        self._app = app
        self._settings = settings
        self._keys = keys
        self._draining = draining
        self._record = record
        self.limiter = RateLimiter(keys.holders if keys else ())
        self._strangers = StrangersAudit()
        self._bodies = Bodies(settings.under_way.bodies)
        self.under_way = 0

    def use_keys(self, keys: Keys) -> None:
        """Accept these keys from now on, in place of those of before."""
        self._keys = keys
        self.limiter.use(keys.holders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")
        if not _GOOD_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        address = _address(scope, headers)
        scope["state"] = {"request_id": request_id, "address": address, "audited": False}
        body = Body(receive, headers, self._settings.limits.body_bytes, self._bodies)
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _finish(message, request_id)
                await body.discard()
            async with asyncio.timeout(_TAKEN_WITHIN):
                await send(message)

        try:
            try:
                content: Receive = body
                if self._keys is not None and scope["path"] in libretranslate.PATHS:
                    content = await libretranslate.with_key_of_body(scope, body)
                caller = self._let_in(scope, Headers(scope=scope))
                scope["state"] |= {"caller": caller, "pay": partial(self._pay, caller)}
                body.check_length()
                await self._app(scope, content, send_marked)
            except Exception as error:
                # Starlette raises what it has answered with 500 again, for the server to see.
                if not status:
                    await refuse(scope, error, request_id)(scope, receive, send_marked)
        finally:
            body.close()
            self.under_way -= "counted" in scope["state"]
            code = scope["state"].get("code")
            record = RequestRecord(_route(scope), status, time.perf_counter() - began, code)
            self._record(record)
            name_request(scope["method"], record.route)
            if self._settings.access_log:
                self._write_log(scope, record, request_id)

    def _let_in(self, scope: Scope, headers: Headers) -> Caller:
        path = scope["path"]
        if self._draining() and path != "/healthz":  # it is alive, but not ready
            raise ApiError(
                503,
                "the server is being stopped",
                "draining",
                retry_after=_RETRY_DRAINING,
                under_way=self.under_way,
            )
        self.under_way += 1
        scope["state"]["counted"] = True
        if self._keys is None:
            client = scope.get("client")
            reason = check_local(
                client[0] if client else None,
                headers.get("host"),
                headers.get("origin"),
                None if path in _PAGES else headers.get("sec-fetch-site"),
                forwarded=any(name in headers for name in _FORWARDED),
            )
            if reason and path not in _OPEN:
                raise self._to_stranger(scope, ApiError(403, reason))
            return Caller("local", SCOPES)
        if path in _OPEN or path in _STATIC or path.startswith(_FILES):
            return Caller("anyone", ())
        holder = self._keys.check(
            presented_key(headers.get("authorization"), headers.get("x-api-key"))
        )
        if holder is None:
            problem = "give a valid API key: Authorization: Bearer KEY"
            raise self._to_stranger(scope, ApiError(401, problem))
        if holder.has_expired:
            problem = f"this key expired at {holder.expires}; ask the operator for another"
            raise self._to_stranger(scope, ApiError(401, problem), holder.name)
        wait = self.limiter.take(holder.name)
        if wait > 0:
            raise ApiError(429, "this key has used up its requests", retry_after=wait)
        return Caller(holder.name, holder.scopes)

    def _to_stranger(self, scope: Scope, error: ApiError, key: str | None = None) -> ApiError:
        self._strangers.write(error, key, scope)
        return error

    def _pay(self, caller: Caller, cost: float) -> None:
        """Count a request that costs `cost` ordinary ones, of which one is counted already.

        Raises ApiError (429) if its key has fewer left. See `RateLimiter.take` for a cost above
        all that a key can have left.
        """
        if cost <= 1:
            return
        wait = self.limiter.take(caller.name, cost, paid=1.0)
        if wait > 0:
            message = f"this request counts as {cost:.0f}, and this key has fewer left"
            raise ApiError(429, message, retry_after=wait)

    def _write_log(self, scope: Scope, record: RequestRecord, request_id: str) -> None:
        line: dict[str, Any] = {
            "request_id": request_id,
            "method": scope["method"],
            "route": record.route,
            "status": record.status,
            "ms": round(1000 * record.seconds, 1),
        }
        caller = scope["state"].get("caller")
        if caller is not None:
            line["key"] = caller.name
        if record.reject:
            line["code"] = record.reject
        _log.info(json.dumps(line))


def refuse(scope: Scope, error: BaseException, request_id: str) -> Any:
    """Return the answer for an error that a route raised, and log one that is a defect."""
    shown = as_api_error(error)
    scope["state"]["code"] = shown.code if shown.status != 500 else "internal"
    if shown.status == 500:
        _log.error(json.dumps({"request_id": request_id, "error": repr(error)}), exc_info=error)
    if scope["path"] in libretranslate.PATHS:
        return libretranslate.refusal(shown, request_id)
    return response(shown, request_id)


def _finish(message: Message, request_id: str) -> None:
    headers = dict(message.get("headers", []))
    headers[REQUEST_ID.encode()] = request_id.encode()
    headers[ANSWERED.encode()] = b"1"
    for name, value in _SECURITY.items():
        headers.setdefault(name.encode(), value.encode())
    message["headers"] = list(headers.items())


def _address(scope: Scope, headers: Headers) -> str:
    """Return the client's address, as HAProxy says it where HAProxy takes the connections."""
    said = headers.get(CLIENT, "") if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else ""
    with suppress(ValueError):
        return str(ipaddress.ip_address(said))
    return scope["client"][0] if scope.get("client") else "unknown"


def _route(scope: Scope) -> str:
    """Return the route's pattern, so that metrics do not have a label for every id."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unknown"


def add_error_handlers(api: FastAPI) -> None:
    """Answer every error in the interface's form."""

    async def refused(request: Request, error: Exception) -> Response:
        answer: Response = refuse(request.scope, error, request.state.request_id)
        return answer

    for kind in (RequestValidationError, HTTPException, ApiError, SeqvisError, Exception):
        api.add_exception_handler(kind, refused)
