"""Errors as the interface shows them: one form, one word for programs, a sentence for people.

What would surprise a reader: whatever is not foreseen becomes a 500 that says nothing but the
request's id, by which the traceback is found in the log.
"""

import json
import math
from typing import Any

from starlette.responses import Response

from seqvis.errors import (
    ArtifactError,
    BadPictureError,
    BusyError,
    ConfigError,
    DataError,
    QueryError,
    SearchTimeoutError,
    SeqvisError,
    StorageError,
    UnknownFieldError,
    UnknownWordError,
    redacted,
)

REQUEST_ID = "x-request-id"
ANSWERED = "x-seqvis-gateway"
"""Marks what the gateway itself answered; the proxy's middleware takes it off."""

_MOST_FIELDS = 100  # of a collection, named where a filter asks for one that is not there

_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
    503: "unavailable",
}


class ApiError(Exception):
    """An error with its status; `more` is added to what the client sees."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        retry_after: float | None = None,
        **more: Any,
    ):
        super().__init__(redacted(message))
        self.status = status
        self.code = code or _CODES.get(status, "error")
        self.retry_after = retry_after
        self.more = more


class UnavailableError(SeqvisError):
    """A part of the system does not answer now."""


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of an error of the library."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, str(error), "overloaded", retry_after=error.retry_after)
    if isinstance(error, SearchTimeoutError):
        return ApiError(503, str(error), "overloaded", retry_after=2.0)
    if isinstance(error, UnavailableError):
        return ApiError(503, str(error), "unavailable", retry_after=2.0)
    if isinstance(error, UnknownWordError):
        return ApiError(
            422,
            str(error),
            "unknown_word",
            word=error.word,
            suggestions=list(error.suggestions),
        )
    if isinstance(error, UnknownFieldError):
        return ApiError(
            422,
            str(error),
            "unknown_field",
            field=error.missing[0],
            fields=list(error.fields[:_MOST_FIELDS]),
            suggestions=list(error.suggestions),
        )
    if isinstance(error, BadPictureError):
        return ApiError(422, str(error), "bad_picture", reason=error.reason)
    if isinstance(error, QueryError):
        return ApiError(422, str(error), "bad_query")
    if isinstance(error, DataError):
        return ApiError(422, str(error), "invalid")
    if isinstance(error, ArtifactError | ConfigError):
        return ApiError(422, str(error), "bad_artifact")
    if isinstance(error, StorageError):
        return ApiError(503, "the disk does not take changes now", "unavailable", retry_after=5.0)
    return ApiError(500, "something is wrong here; the log says what, by the request's id")


def response(error: ApiError, request_id: str) -> Response:
    """The answer that a client gets."""
    content = {
        "error": {
            "code": error.code if error.status != 500 else "internal",
            "message": str(error),
            "request_id": request_id,
            **error.more,
        }
    }
    headers = {REQUEST_ID: request_id, ANSWERED: "1"}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 408:
        headers["connection"] = "close"  # the rest of the body would be read as a request
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    # Of a lone surrogate, which a client may have sent, the escape is left, as JSON writes it.
    body = json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")
    return Response(body, error.status, headers, media_type="application/json")
