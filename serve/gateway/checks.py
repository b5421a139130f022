"""Checks that a request's types cannot express: configured limits, pictures, filters in forms."""

import json
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Request, UploadFile

from seqvis.collection.items import check_ids, encode_metadata
from seqvis.decoding.cost import Cost, cost_of, count_words
from seqvis.errors import DataError
from serve.common.http import ApiError
from serve.common.settings import Limits
from serve.gateway.schema import TranslateRequest
from serve.gateway.values import read_json

FILTER_FIELDS, FILTER_VALUES, FILTER_BYTES = 16, 100, 8 << 10

_STREAM_TIMES = 100  # texts and work of a stream, as a multiple of those of one answer


def most_cost(asked: TranslateRequest, limits: Limits) -> Cost:
    """What a request to translate may cost."""
    times = _STREAM_TIMES if asked.stream else 1
    return Cost(limits.work * times, limits.attention * times if asked.attention else sys.maxsize)


def check_texts(texts: list[str], asked: TranslateRequest, limits: Limits) -> Cost:
    """About what it costs to translate the texts. Raises ApiError (422) for more than is allowed.

    Words are counted only as far as is allowed, so the longest request is refused in milliseconds.
    """
    most = limits.texts * (_STREAM_TIMES if asked.stream else 1)
    if len(texts) > most:
        raise ApiError(422, f"{len(texts):,} texts; {most:,} at most can be translated at once")
    if any(len(text) > limits.characters for text in texts):
        raise ApiError(422, f"a text may have {limits.characters:,} characters at most")
    if asked.beam > limits.beam:
        raise ApiError(422, f"beam is {asked.beam}; at most {limits.beam} is allowed here")
    if asked.n_best > asked.beam:
        raise ApiError(422, f"n_best is {asked.n_best}, which needs a beam of at least as many")
    if asked.partial and not asked.stream:
        raise ApiError(422, "partial needs stream")
    cost, allowed = Cost(), most_cost(asked, limits)
    for number, text in enumerate(texts, start=1):
        words = count_words(text)
        if words > limits.words:
            raise ApiError(
                422,
                f"text {number:,} has {words:,} words and marks; {limits.words:,} at most can be "
                "translated at once: send its sentences singly",
            )
        cost += cost_of(words + 1, asked.beam, asked.n_best)
        try:
            cost.check(allowed)
        except DataError as error:
            raise ApiError(422, str(error)) from None
    return cost


def check_k(k: int, limits: Limits) -> None:
    """Raises ApiError (422) for more matches than are allowed."""
    if k > limits.matches:
        raise ApiError(422, f"k is {k:,}; at most {limits.matches:,} is allowed here")


def check_filter(where: Mapping[str, Any] | None) -> None:
    """Raises ApiError (422) for a filter that is larger than searches are made for."""
    if where is None:
        return
    if len(where) > FILTER_FIELDS:
        raise ApiError(422, f"where: has {len(where):,} fields; {FILTER_FIELDS} at most")
    values = sum(len(wanted) if isinstance(wanted, list) else 1 for wanted in where.values())
    if values > FILTER_VALUES:
        raise ApiError(422, f"where: has {values:,} values; {FILTER_VALUES} at most")
    size = len(json.dumps(where, ensure_ascii=False).encode())
    if size > FILTER_BYTES:
        raise ApiError(422, f"where: has {size:,} bytes as JSON; {FILTER_BYTES:,} at most")


def check_metadata(metadata: Mapping[str, Any], limits: Limits) -> None:
    """Raises ApiError (422) for more than is allowed: it comes back with every match."""
    size = len(encode_metadata("metadata", metadata))
    if size > limits.metadata_bytes:
        most = f"{limits.metadata_bytes:,}"
        raise ApiError(422, f"metadata: has {size:,} bytes as JSON; {most} at most are stored")


def given_id(request: Request, id: str) -> str:  # noqa: A002
    """The picture's id, from the path or the query.

    Raises ApiError (422) if it is not UTF-8: Starlette replaces what it cannot decode, so that
    another picture's id could be meant. Raises DataError if it is no id.
    """
    if "\ufffd" in id:
        raw = request.scope.get("raw_path", b"") + b"?" + request.scope["query_string"]
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise ApiError(422, "the id is not UTF-8, percent-encoded") from None
    return check_ids([id])[0]


async def content_of(file: UploadFile, limits: Limits) -> bytes:
    """The bytes of an uploaded picture. Raises ApiError (413) if there are too many."""
    content = await file.read(limits.image_bytes + 1)
    if len(content) > limits.image_bytes:
        raise ApiError(413, f"a picture may have {limits.image_bytes:,} bytes at most")
    return content


def mapping_of(field: str, text: str | None) -> dict[str, Any] | None:
    """A form's field of JSON. Raises ApiError (422) if it holds no names and values."""
    if not text:
        return None
    found = read_json(field, text.encode())
    if not isinstance(found, dict):
        raise ApiError(422, f"{field}: is no object of names and values")
    return found
