"""Read JSON and form fields as clients send them, within bounds.

Values out of bounds raise ApiError (422) at once, before anything is sent to a replica.
"""

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.responses import Response

from serve.common.http import ApiError
from serve.gateway.scopes import ScopedRoute

DEPTH = 32
VALUES = 2000
FIELD_CHARACTERS = 20_000
FIELDS = 100

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_json(name: str, content: bytes, most: int = VALUES) -> Any:
    """The value of a JSON text; `name` is what messages call it.

    Raises ApiError (422) for more than `most` values, nesting deeper than DEPTH, half a surrogate
    pair, numbers that are not finite, and names that are given twice in one object.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ApiError(422, f"{name}: is not JSON in UTF-8") from None
    # Before parsing, since millions of values would take a second and a gigabyte.
    _check_size(name, content, most)

    def refuse(problem: str) -> NoReturn:
        raise ApiError(422, f"{name}: {problem}")

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        # Two programs that read a name given twice would not agree on its value.
        if len(found) < len(pairs):
            refuse("an object has a name twice")
        return found

    def number(digits: str) -> float:
        if not math.isfinite(found := float(digits)):
            refuse("a number is not finite")
        return found

    try:
        found = json.loads(
            text, object_pairs_hook=mapping, parse_float=number, parse_constant=number
        )
    except ValueError as error:
        raise ApiError(422, f"{name}: is not JSON ({error})") from None
    if "\\u" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse("a text has half of a surrogate pair, which is no character")
    return found


def _check_size(name: str, content: bytes, most: int) -> None:
    """Raises ApiError (422) for too many values, or too deep ones.

    Every value follows a comma or the bracket that opens a list or object, but for the outermost;
    so an empty list or object counts twice.
    """
    rest, strings = _STRING.subn(b"", content, count=2 * most)
    values = 1 + rest.count(b",") + rest.count(b"[") + rest.count(b"{")
    if strings == 2 * most or values > most:
        raise ApiError(422, f"{name}: has more than {most:,} values")
    depth = 0
    for bracket in rest.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise ApiError(422, f"{name}: lists and objects are nested deeper than {DEPTH}")


class _BoundedRequest(Request):
    """A request whose body is read by `read_json`, and whose form fields are bounded."""

    def __init__(self, request: Request, most_values: int):
        super().__init__(request.scope, request.receive)
        self._most_values = most_values

    async def json(self) -> Any:
        return read_json("the body", await self.body(), self._most_values)

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]
        """Raises ApiError (422) for a field that is too long, or a form that is not in UTF-8.

        Some of Python's encodings take minutes for a megabyte, so a client cannot choose one.
        """
        options = parse_options_header(self.headers.get("content-type"))[1]
        if options.get(b"charset", b"utf-8").lower() != b"utf-8":
            raise ApiError(422, "a form must be in UTF-8")
        form = await super().form(max_fields=FIELDS, max_files=10, max_part_size=1 << 30)
        for name, value in form.multi_items():
            if isinstance(value, str) and len(value) > FIELD_CHARACTERS:
                await form.close()
                raise ApiError(
                    422,
                    f"{name[:100]}: has {len(value):,} characters; {FIELD_CHARACTERS:,} at most",
                )
        return form


def bounded_route(most_values: int = VALUES) -> type[APIRoute]:
    """The class of routes that need a scope and whose requests are read within bounds."""

    class BoundedRoute(ScopedRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def bounded(request: Request) -> Response:
                return await handle(_BoundedRequest(request, most_values))

            return bounded

    return BoundedRoute
