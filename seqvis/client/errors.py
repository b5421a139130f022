"""What a call of a server may raise.

ClientError                 the base of all, itself a SeqvisError
├── UnreachableError        there is no answer, or it broke off
├── ForbiddenError          the key is missing, wrong or expired, or lacks a scope
├── NotFoundError           there is no picture, model or route of this name
├── RefusedError            the request cannot be carried out as it is
├── OverloadedError         there is too much to do, also after all repetitions
└── ServerFaultError        something is wrong in the server; its log says what
"""

import json
from collections.abc import Mapping
from typing import Any

from seqvis.errors import SeqvisError


class ClientError(SeqvisError):
    """A call that failed; the attributes are what the server says of it."""

    def __init__(
        self,
        message: str,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ):
        """
        Args:
            status: HTTP's; None without an answer.
            problem: the `error` of the answer: `code`, `message`, and fields of its kind, such as
                the `suggestions` for an unknown word.
            request_id: by which the server's logs name the request.
            retry_after: seconds after which it may be sent again.
        """
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def code(self) -> str:
        """One word for programs: overloaded, unknown_word, bad_picture, …; "" without an answer."""
        return str(self.problem.get("code", ""))


class UnreachableError(ClientError):
    """There is no answer, or it broke off."""


class ForbiddenError(ClientError):
    """The key is missing, wrong or expired, or lacks the scope that `problem["scope"]` names."""


class NotFoundError(ClientError):
    """There is no picture, model or route of this name."""


class RefusedError(ClientError):
    """The request cannot be carried out as it is."""


class OverloadedError(ClientError):
    """There is too much to do, or the key has used up its requests, also after all repetitions."""


class ServerFaultError(ClientError):
    """Something is wrong in the server; its log says what, by the request's id."""


_KINDS: Mapping[int, type[ClientError]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    429: OverloadedError,
    502: OverloadedError,
    503: OverloadedError,
    504: OverloadedError,
}
_STATUSES = {"not_found": 404, "overloaded": 503, "unavailable": 503, "internal": 500}


def error_of(
    status: int, content: bytes, request_id: str, retry_after: float | None = None
) -> ClientError:
    """Return the error that an answer describes, also one that is not of a server of this kind."""
    try:
        problem = json.loads(content)["error"]
        message = problem["message"]
    except (ValueError, KeyError, TypeError):
        shown = content[:200].decode(errors="replace").strip()
        problem, message = {}, f"answered with status {status}: {shown or 'nothing'}"
    return _kind(status)(message, status, problem, request_id, retry_after)


def error_inside(problem: Mapping[str, Any], request_id: str | None = None) -> ClientError:
    """Return the error of one item of an answer, or of a stream's last line."""
    status = _STATUSES.get(problem["code"], 422)
    return _kind(status)(problem["message"], status, problem, request_id)


def _kind(status: int) -> type[ClientError]:
    return _KINDS.get(status, RefusedError if status < 500 else ServerFaultError)
