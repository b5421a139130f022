"""The HTTP interface: the routes for translations and operators, and the whole of it.

Answers are written as JSON directly; their models are only for the OpenAPI document.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

import seqvis
from serve.common.http import ApiError, UnavailableError, as_api_error, json_response
from serve.common.keys import Keys
from serve.common.metrics import RequestRecord
from serve.common.settings import Application, GatewaySettings, TranslateOptions
from serve.common.versions import VersionMissingError, version_key
from serve.gateway import schema
from serve.gateway.access import asker, changing_models
from serve.gateway.bulk import bulk
from serve.gateway.checks import VALUES, bounded_route, check_texts, most_cost
from serve.gateway.libretranslate import libretranslate
from serve.gateway.live import LiveModels
from serve.gateway.middleware import RequestMiddleware, add_error_handlers
from serve.gateway.pages import add_pages
from serve.gateway.pictures import pictures
from serve.gateway.schema import answers
from serve.gateway.searching import searching

_STREAMED = "application/x-ndjson"
_ERRORS: dict[int | str, str] = {
    400: "The request cannot be read",
    401: "An API key is needed",
    403: "Not allowed; `scope` is what is missing",
    404: "There is none of this name",
    405: "No such method here",
    413: "Too large",
    422: "Something in it is not possible",
    429: "Too many requests with this key",
    503: "Too much to do; see Retry-After",
}


class _WholePath(PathConvertor):
    """The rest of a path, with a line feed at its end.

    Starlette's own pattern leaves that out, so a request to delete "b.jpg\\n" would delete "b.jpg".
    """

    regex = "(?s:.*)"


def build_api(
    live: LiveModels,
    settings: GatewaySettings,
    keys: Keys | None,
    record: Callable[[RequestRecord], None],
) -> RequestMiddleware:
    """Build the whole interface as an ASGI application; `record` is called with every request."""
    register_url_convertor("path", _WholePath())
    api = FastAPI(
        title="seqvis",
        version=seqvis.__version__,
        summary="Translation, and search of pictures by words and of words by pictures",
        docs_url=None,
        redoc_url=None,
        # Serve makes the traces (serve/common/tracing.py); FastAPI's would hold paths and queries.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses={
            status: {"model": schema.ErrorAnswer, "description": description}
            for status, description in _ERRORS.items()
        },
    )
    add_error_handlers(api)
    api.include_router(_translation(live, settings))
    api.include_router(searching(live, settings.limits))
    api.include_router(pictures(live, settings.limits))
    api.include_router(bulk(live, settings.limits))
    translate = partial(_translated, live, settings)
    api.include_router(libretranslate(live, settings.limits, translate))
    api.include_router(_operating(live))
    add_pages(api)
    return RequestMiddleware(api, settings, keys, lambda: live.draining, record)


def _translation(live: LiveModels, settings: GatewaySettings) -> APIRouter:
    limits = settings.limits
    reading = bounded_route(schema.LONGEST_LIST + VALUES)
    router = APIRouter(prefix="/v1", tags=["translation"], route_class=reading)

    documented = answers(schema.TranslateAnswer)
    documented[200]["content"] = {_STREAMED: {}}

    @router.post("/translate", response_model=None, responses=documented)
    async def translate(body: schema.TranslateRequest, request: Request) -> Response:
        """Translate one text or many; with `stream`, send each as soon as it ends.

        With `min_confidence`, a translation that the model is less sure of is refused: a single
        text gets 422 `unsure` with its `confidence` and `unknown_words`; in a list and in a stream
        the translation has no text, and `refused` says why.

        Its cost is limited: about the number of texts times the beam times their length squared.
        A request that costs much counts as several of its key's.
        """
        texts = [body.text] if isinstance(body.text, str) else body.text
        if body.stream:
            # It may be long.
            cost = await asyncio.to_thread(check_texts, texts, body, limits)
            request.state.pay(cost.work / limits.work_per_request)
            items = await _begun(_stream(live, texts, _options(body, settings), body.model))
            return StreamingResponse(_lines(items), media_type=_STREAMED)
        model, translations = await _translated(live, settings, texts, body, request)
        if isinstance(body.text, str) and translations[0]["refused"]:
            raise _unsure(translations[0])
        return json_response({"model": model, "translations": translations})

    return router


def _unsure(translation: Mapping[str, Any]) -> ApiError:
    """Return the refusal of a text that nothing else was asked for."""
    return ApiError(
        422,
        f"the translation is not sure enough: {translation['refused']}",
        "unsure",
        confidence=translation["confidence"],
        unknown_words=translation["unknown_words"],
    )


def _options(body: schema.TranslateRequest, settings: GatewaySettings) -> TranslateOptions:
    least = body.min_confidence
    return TranslateOptions(
        body.beam,
        body.n_best,
        body.length_penalty,
        body.attention,
        body.partial,
        settings.min_confidence if least is None else least,
        most_cost(body, settings.limits),
    )


async def _translated(
    live: LiveModels,
    settings: GatewaySettings,
    texts: list[str],
    body: schema.TranslateRequest,
    request: Request,
) -> tuple[str, list[dict[str, Any]]]:
    """Return the version's name and the translations of a request's texts."""
    cost = check_texts(texts, body, settings.limits)
    request.state.pay(cost.work / settings.limits.work_per_request)
    translator, options = live.translator_service(), _options(body, settings)
    return await live.ask(
        "translator", body.model, lambda key: translator.translate(key, texts, options)
    )


def _operating(live: LiveModels) -> APIRouter:
    router = APIRouter(tags=["operating"], route_class=bounded_route())

    @router.get("/v1/models", response_model=None, responses=answers(schema.ModelsAnswer))
    async def models(request: Request) -> Response:
        """List the live versions of each application, to a key with the scope `admin` with their
        paths and with what was refused."""
        shown = await live.models()
        if "admin" not in request.state.caller.scopes:
            shown = {application: _without_places(part) for application, part in shown.items()}
        return json_response(shown)

    @router.put(
        "/v1/models/{application}",
        response_model=None,
        responses=answers(schema.LiveApplication),
    )
    async def change(
        application: Application, body: schema.ChangeModels, request: Request
    ) -> Response:
        """Make these versions live, without a pause; each is loaded and tried first."""
        with changing_models(application, body.versions, *asker(request)):
            await live.change(application, body.versions)
        return json_response(await live.application(application))

    @router.get("/healthz", response_model=None, include_in_schema=False)
    async def healthz() -> Response:
        """Say that the gateway is alive."""
        return json_response({"alive": True})

    @router.get("/readyz", response_model=None, include_in_schema=False)
    async def readyz() -> Response:
        """Tell whether every application answers; 503 if not."""
        parts = await live.ready()
        good = bool(parts) and all(parts.values())
        return json_response({"ready": good, "parts": parts}, 200 if good else 503)

    return router


def _without_places(application: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what is live of an application without what the operator's disks are called."""
    if application is None:
        return None
    versions = [{**version, "path": ""} for version in application["versions"]]
    return {"versions": versions, "refused": {}}


async def _stream(
    live: LiveModels, texts: Sequence[str], options: TranslateOptions, name: str | None
) -> AsyncIterator[dict[str, Any]]:
    """Yield translations and beginnings as they come, then how many there were."""
    translator = live.translator_service()
    for version in live.order("translator", name):
        try:
            async for item in translator.stream(version_key(version), texts, options):
                yield item
            yield {"done": True, "count": len(texts), "model": version.name}
            return
        except VersionMissingError:
            continue
    raise UnavailableError("the model is being loaded")


async def _begun(items: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Wait for the first item, since what fails before it can still be answered with a status."""
    first = await anext(items)

    async def all_items() -> AsyncIterator[dict[str, Any]]:
        yield first
        async for item in items:
            yield item

    return all_items()


async def _lines(items: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for item in items:
            yield json.dumps(item, ensure_ascii=False).encode() + b"\n"
    except Exception as error:  # the status is sent already, so the last line says it
        shown = as_api_error(error)
        problem = {"code": shown.code, "message": str(shown)}
        if shown.status >= 500:
            message = "the translator stopped answering; ask again"
            problem = {"code": "unavailable", "message": message}
        yield json.dumps({"error": problem}, ensure_ascii=False).encode() + b"\n"
