"""How errors of routes become answers."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from seqvis.errors import SeqvisError
from serve.api.door import refuse
from serve.api.errors import ApiError


def add_error_handlers(api: FastAPI) -> None:
    """Puts every error into the one form."""

    async def refused(request: Request, error: Exception) -> Response:
        answer: Response = refuse(request.scope, error, request.state.request_id)
        return answer

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = [
            {"where": ".".join(str(part) for part in one["loc"]), "problem": one["msg"]}
            for one in error.errors()
        ]
        first = problems[0]
        told = ApiError(
            422, f"{first['where']}: {first['problem']}", "invalid", problems=problems[:20]
        )
        return await refused(request, told)

    async def by_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ApiError):  # raised while the body was read
            return await refused(request, error.__cause__)
        return await refused(request, ApiError(error.status_code, str(error.detail)))

    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(HTTPException, by_status)
    api.add_exception_handler(ApiError, refused)
    api.add_exception_handler(SeqvisError, refused)
    api.add_exception_handler(Exception, refused)
