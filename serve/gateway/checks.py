"""Bounds on requests that their types cannot express: of JSON, forms, texts, pictures, filters.

What is out of bounds raises ApiError (422) before anything is sent to a replica.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.responses import Response

from seqvis.collection.filters.conditions import Condition, count_values, fields_of
from seqvis.collection.filters.where import check_where
from seqvis.collection.items import check_ids, encode_metadata
from seqvis.decoding.cost import Cost, cost_of, count_words
from seqvis.errors import DataError
from serve.common.http import ApiError
from serve.common.settings import Limits
from serve.gateway.access import ScopedRoute
from serve.gateway.schema import BatchedSearch, TranslateRequest

DEPTH = 32
VALUES = 2000
VALUES_OF_MANY = 20_000  # of a request for many pictures or searches
FIELD_CHARACTERS = 20_000
FIELDS, FILES = 100, 10
FILTER_FIELDS, FILTER_VALUES, FILTER_BYTES = 16, 100, 8 << 10

_STREAM_TIMES = 100  # texts and work of a stream, as a multiple of those of one answer
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_json(name: str, content: bytes, most: int = VALUES) -> Any:
    """Return the value of a JSON text, which messages call `name`.

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
        # Two programs that read a name given twice would not agree on its value.
        if len(values := dict(pairs)) < len(pairs):
            refuse("an object has a name twice")
        return values

    def number(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            refuse("a number is not finite")
        return value

    try:
        value = json.loads(
            text, object_pairs_hook=mapping, parse_float=number, parse_constant=number
        )
    except ValueError as error:
        raise ApiError(422, f"{name}: is not JSON ({error})") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse("a text has half of a surrogate pair, which is no character")
    return value


def _check_size(name: str, content: bytes, most: int) -> None:
    """Raise ApiError (422) for too many values, or too deep ones.

    Every value but the outermost follows a comma or an opening bracket, so an empty list or object
    counts twice.
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


class BoundedRequest(Request):
    """A request whose body is read by `read_json`, and whose form fields are bounded."""

    def __init__(
        self,
        request: Request,
        most_values: int = VALUES,
        most_files: int = FILES,
        most_characters: int = FIELD_CHARACTERS,
    ):
        super().__init__(request.scope, request.receive)
        self._most_values = most_values
        self._most_files, self._most_characters = most_files, most_characters

    async def json(self) -> Any:
        return read_json("the body", await self.body(), self._most_values)

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]
        """Raise ApiError (422) for a field that is too long, or a form that is not in UTF-8.

        Some of Python's encodings take minutes for a megabyte, so a client cannot choose one.
        """
        options = parse_options_header(self.headers.get("content-type"))[1]
        if options.get(b"charset", b"utf-8").lower() != b"utf-8":
            raise ApiError(422, "a form must be in UTF-8")
        form = await super().form(
            max_fields=FIELDS, max_files=self._most_files, max_part_size=1 << 30
        )
        most = self._most_characters
        for name, value in form.multi_items():
            if isinstance(value, str) and len(value) > most:
                await form.close()
                raise ApiError(
                    422, f"{name[:100]}: has {len(value):,} characters; {most:,} at most"
                )
        return form


def bounded_route(
    most_values: int = VALUES, most_files: int = FILES, most_characters: int = FIELD_CHARACTERS
) -> type[APIRoute]:
    """Return the class of routes that need a scope and read requests within bounds.

    `most_characters`: of a field of a form.
    """

    class BoundedRoute(ScopedRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_bounded(request: Request) -> Response:
                bounded = BoundedRequest(request, most_values, most_files, most_characters)
                return await handle(bounded)

            return handle_bounded

    return BoundedRoute


def most_cost(request: TranslateRequest, limits: Limits) -> Cost:
    """Return what a request to translate may cost."""
    times = _STREAM_TIMES if request.stream else 1
    return Cost(limits.work * times, limits.attention * times if request.attention else sys.maxsize)


def check_texts(texts: list[str], request: TranslateRequest, limits: Limits) -> Cost:
    """Return about what translating the texts costs. Raises ApiError (422) if that is too much.

    Words are counted only up to the limit, so the longest request is refused in milliseconds.
    """
    most = limits.texts * (_STREAM_TIMES if request.stream else 1)
    if len(texts) > most:
        raise ApiError(422, f"{len(texts):,} texts; {most:,} at most can be translated at once")
    if any(len(text) > limits.characters for text in texts):
        raise ApiError(422, f"a text may have {limits.characters:,} characters at most")
    if request.beam > limits.beam:
        raise ApiError(422, f"beam is {request.beam}; at most {limits.beam} is allowed here")
    if request.n_best > request.beam:
        raise ApiError(422, f"n_best is {request.n_best}, which needs a beam of at least as many")
    if request.partial and not request.stream:
        raise ApiError(422, "partial needs stream")
    cost, allowed = Cost(), most_cost(request, limits)
    for number, text in enumerate(texts, start=1):
        words = count_words(text)
        if words > limits.words:
            raise ApiError(
                422,
                f"text {number:,} has {words:,} words and marks; {limits.words:,} at most can be "
                "translated at once: send its sentences singly",
            )
        cost += cost_of(words + 1, request.beam, request.n_best)
        try:
            cost.check(allowed)
        except DataError as error:
            raise ApiError(422, str(error)) from None
    return cost


def check_k(k: int, limits: Limits, name: str = "k") -> None:
    """Raise ApiError (422) for more matches than are allowed."""
    if k > limits.matches:
        raise ApiError(422, f"{name} is {k:,}; at most {limits.matches:,} is allowed here")


def check_searches(searches: Sequence[BatchedSearch], limits: Limits) -> None:
    """Raise ApiError (422) for too many searches or matches, and for one that asks for nothing."""
    if len(searches) > limits.searches:
        raise ApiError(422, f"{len(searches):,} searches; at most {limits.searches:,} together")
    check_k(sum(search.k for search in searches), limits, "the k of all searches together")
    for number, search in enumerate(searches, start=1):
        if (search.query is None) == (search.id is None):
            raise ApiError(422, f"search {number}: give either a query or the id of a picture")
        if search.id is not None:
            check_ids([search.id])


def check_filter(where: str | Mapping[str, Any] | None) -> Condition | None:
    """Return a request's filter as conditions. Raises ApiError (422) for one that is too large.

    Raises FilterSyntaxError for a text that cannot be read.
    """
    if isinstance(where, str):
        _check_filter_size(len(where.encode()), "")  # before it is read
    condition = check_where(where)
    if condition is None or callable(condition):
        return None
    fields, values = len(fields_of(condition)), count_values(condition)
    if fields > FILTER_FIELDS:
        raise ApiError(422, f"where: has {fields:,} fields; {FILTER_FIELDS} at most")
    if values > FILTER_VALUES:
        raise ApiError(422, f"where: has {values:,} values; {FILTER_VALUES} at most")
    if not isinstance(where, str):
        _check_filter_size(len(json.dumps(where, ensure_ascii=False).encode()), " as JSON")
    return condition


def _check_filter_size(size: int, form: str) -> None:
    if size > FILTER_BYTES:
        raise ApiError(422, f"where: has {size:,} bytes{form}; {FILTER_BYTES:,} at most")


def check_metadata(metadata: Mapping[str, Any], limits: Limits) -> None:
    """Raise ApiError (422) for too much metadata, since it comes back with every match."""
    size = len(encode_metadata("metadata", metadata))
    if size > limits.metadata_bytes:
        most = f"{limits.metadata_bytes:,}"
        raise ApiError(422, f"metadata: has {size:,} bytes as JSON; {most} at most are stored")


def given_id(request: Request, id: str) -> str:  # noqa: A002
    """Return the picture's id, from the path or the query. Raises DataError if it is no id.

    Raises ApiError (422) if it is not UTF-8: Starlette replaces what it cannot decode, so that it
    would be another picture's id.
    """
    if "\ufffd" in id:
        raw = request.scope.get("raw_path", b"") + b"?" + request.scope["query_string"]
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise ApiError(422, "the id is not UTF-8, percent-encoded") from None
    return check_ids([id])[0]


def mapping_of(field: str, text: str | None) -> dict[str, Any] | None:
    """Return a form's field of JSON. Raises ApiError (422) if it is no object."""
    if not text:
        return None
    content = read_json(field, text.encode())
    if not isinstance(content, dict):
        raise ApiError(422, f"{field}: is no object of names and values")
    return content


def filter_of(text: str | None) -> Condition | None:
    """Return the filter in a form's field: an object of JSON, or the text form.

    Raises ApiError (422) and FilterSyntaxError as `mapping_of` and `check_filter` do.
    """
    is_json = text is not None and text.lstrip().startswith(("{", "["))
    return check_filter(mapping_of("where", text) if is_json else text or None)
