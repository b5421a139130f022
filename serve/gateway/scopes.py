"""The scope of a key that each route needs, checked before a request's body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from serve.common.http import ApiError
from serve.common.keys import SCOPES, KeyScope
from serve.gateway.audit import asker, audited

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
    """The refusal of a key that has only the scopes `held`."""
    wanted = ", ".join(one for one in SCOPES if one == scope or one in held)
    return ApiError(
        403,
        f"this key lacks the scope {scope}; the operator adds it to the key's entry in the file "
        f"of keys, scopes: [{wanted}], and restarts the gateway",
        scope=scope,
    )
