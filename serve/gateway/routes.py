"""The HTTP interface: routes that check their input and call the gateway's router.

Answers are written as JSON directly; their models are only for the OpenAPI document.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, UploadFile
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

import seqvis
from seqvis.collection.items import check_ids, check_new_ids
from seqvis.search.requests import (
    ImageQuery,
    LikeQuery,
    NameSet,
    SearchRequest,
    TextQuery,
)
from serve.common.http import ApiError, as_api_error
from serve.common.keys import Keys
from serve.common.metrics import RequestRecord
from serve.common.settings import Application, GatewaySettings, Limits, TranslateOptions
from serve.gateway import schema
from serve.gateway.access import asker, audited, changing_models
from serve.gateway.checks import (
    VALUES,
    bounded_route,
    check_filter,
    check_k,
    check_metadata,
    check_texts,
    content_of,
    given_id,
    mapping_of,
    most_cost,
)
from serve.gateway.live import LiveModels
from serve.gateway.middleware import RequestMiddleware, add_error_handlers
from serve.gateway.pages import add_pages
from serve.gateway.router import Router, id_of_upload, image_path

Picture = Annotated[str, Depends(given_id)]

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
        responses={
            status: {"model": schema.ErrorAnswer, "description": description}
            for status, description in _ERRORS.items()
        },
    )
    add_error_handlers(api)
    router = Router(live)
    api.include_router(_translation(router, settings.limits))
    api.include_router(_searching(router, settings.limits))
    api.include_router(_pictures(router, settings.limits))
    api.include_router(_operating(live))
    add_pages(api)
    return RequestMiddleware(api, settings, keys, lambda: live.draining, record)


def _translation(calls: Router, limits: Limits) -> APIRouter:
    reading = bounded_route(schema.LONGEST_LIST + VALUES)
    router = APIRouter(prefix="/v1", tags=["translation"], route_class=reading)

    @router.post("/translate", response_model=None, responses=_ok(schema.TranslateAnswer))
    async def translate(body: schema.TranslateRequest, request: Request) -> Response:
        """Translates one text or many; with `stream`, each as soon as it ends.

        Its cost is limited: about the number of texts times the beam times their length squared.
        A request that costs much counts as several of its key's.
        """
        texts = [body.text] if isinstance(body.text, str) else body.text
        if body.stream:  # it may be long
            cost = await asyncio.to_thread(check_texts, texts, body, limits)
        else:
            cost = check_texts(texts, body, limits)
        request.state.pay(cost.work / limits.work_per_request)
        options = TranslateOptions(
            body.beam,
            body.n_best,
            body.length_penalty,
            body.attention,
            body.partial,
            most_cost(body, limits),
        )
        if body.stream:
            items = await _begun(calls.stream(texts, options, body.model))
            return StreamingResponse(_lines(items), media_type="application/x-ndjson")
        model, translations = await calls.translate(texts, options, body.model)
        return _json({"model": model, "translations": translations})

    return router


def _searching(calls: Router, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["search"], route_class=bounded_route())

    @router.post("/search/text", response_model=None, responses=_ok(schema.SearchTextAnswer))
    async def search_text(body: schema.SearchTextRequest) -> Response:
        """Pictures near words, or near a signed sum of words."""
        check_k(body.k, limits)
        check_filter(body.where)
        request = SearchRequest(TextQuery(body.query), body.k, body.min_score, body.where)
        model, read_as, matches = await calls.search(request, body.model)
        return _json({"model": model, "read_as": read_as, "matches": matches})

    @router.post("/search/like", response_model=None, responses=_ok(schema.SearchAnswer))
    async def search_like(body: schema.SearchLikeRequest) -> Response:
        """Pictures near a stored one."""
        check_k(body.k, limits)
        check_filter(body.where)
        check_ids([body.id])
        request = SearchRequest(LikeQuery(body.id), body.k, body.min_score, body.where)
        model, _, matches = await calls.search(request, body.model)
        return _json({"model": model, "matches": matches})

    @router.post("/search/image", response_model=None, responses=_ok(schema.SearchAnswer))
    async def search_image(
        file: Annotated[UploadFile, File(description="A JPEG, PNG, GIF, WebP, BMP or TIFF")],
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        min_score: Annotated[float | None, Form(ge=-1, le=1, allow_inf_nan=False)] = None,
        where: Annotated[str | None, Form(description="A filter as JSON")] = None,
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """Pictures near an uploaded one."""
        check_k(k, limits)
        metadata_filter = mapping_of("where", where)
        check_filter(metadata_filter)
        query = ImageQuery(await content_of(file, limits))
        request = SearchRequest(query, k, min_score, metadata_filter)
        chosen, _, matches = await calls.search(request, model or None)
        return _json({"model": chosen, "matches": matches})

    @router.post("/classify", response_model=None, responses=_ok(schema.ClassifyAnswer))
    async def classify(
        file: Annotated[UploadFile | None, File(description="A picture, or else an id")] = None,
        id: Annotated[str | None, Form(max_length=schema.LONGEST_ID)] = None,  # noqa: A002
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        candidates: Annotated[NameSet, Form()] = "classes",
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """The words nearest to a picture: the model's own, ImageNet's 1,000, or all of WordNet."""
        if (file is None) == (not id):
            raise ApiError(422, "give either a file or the id of a stored picture")
        check_k(k, limits)
        picture: ImageQuery | LikeQuery
        if file is not None:
            picture = ImageQuery(await content_of(file, limits))
        else:
            picture = LikeQuery(check_ids([id or ""])[0])
        chosen, words = await calls.classify(picture, k, candidates, model or None)
        return _json({"model": chosen, "words": words})

    return router


def _pictures(calls: Router, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pictures"], route_class=bounded_route())
    jpeg = {"content": {"image/jpeg": {}}, "description": "The thumbnail"}

    @router.get("/images", response_class=Response, responses={200: jpeg})
    @router.get("/images/{id:path}", response_class=Response, responses={200: jpeg})
    async def thumbnail(picture: Picture, request: Request) -> Response:
        """A stored picture, its longer side at most 128 pixels.

        Give the id as the query parameter `id`, as `image` in answers does. In the path, clients
        and proxies change ids such as `a/../b.jpg` or `/b.jpg` before they arrive.
        """
        content = await calls.thumbnail(picture)
        tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
        headers = {"etag": tag, "cache-control": "private, max-age=60"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    @router.post(
        "/images",
        status_code=201,
        response_model=None,
        responses={201: {"model": schema.AddAnswer, "description": "It is on the disk"}},
    )
    async def add(
        request: Request,
        file: Annotated[UploadFile, File(description="The picture")],
        id: Annotated[str | None, Form(max_length=schema.LONGEST_ID)] = None,  # noqa: A002
        label: Annotated[str | None, Form(max_length=200)] = None,
        name: Annotated[str | None, Form(max_length=200)] = None,
        metadata: Annotated[str | None, Form(description="Further values as JSON")] = None,
    ) -> Response:
        """Adds a picture, or replaces the one of this id; searches find it within a second."""
        stored = {"label": label or None, "name": name or label or None}
        stored |= mapping_of("metadata", metadata) or {}
        check_metadata(stored, limits)
        content = await content_of(file, limits)
        picture = check_new_ids([id])[0] if id else id_of_upload(content)
        with audited("add", *asker(request), ids=[picture]) as line:
            if await calls.add(content, picture, stored):
                line["action"] = "overwrite"
        return _json({"id": picture, "image": image_path(picture)}, 201)

    @router.delete("/images", response_model=None, responses=_ok(schema.DeleteAnswer))
    @router.delete("/images/{id:path}", response_model=None, responses=_ok(schema.DeleteAnswer))
    async def delete(picture: Picture, request: Request) -> Response:
        """Deletes a picture; searches no longer find it within a second.

        Give the id as the query parameter `id`, as `image` in answers does: in the path, another
        id may arrive than was meant.
        """
        with audited("delete", *asker(request), ids=[picture]):
            if not await calls.delete(picture):
                raise ApiError(404, f"{picture}: no picture has this id")
        return _json({"id": picture, "deleted": True})

    return router


def _operating(live: LiveModels) -> APIRouter:
    router = APIRouter(tags=["operating"], route_class=bounded_route())

    @router.get("/v1/models", response_model=None, responses=_ok(schema.ModelsAnswer))
    async def models() -> Response:
        """What is live."""
        return _json(await live.models())

    @router.put(
        "/v1/models/{application}", response_model=None, responses=_ok(schema.LiveApplication)
    )
    async def change(
        application: Application, body: schema.ChangeModels, request: Request
    ) -> Response:
        """Makes these versions live, without a pause; each is loaded and tried first."""
        with changing_models(application, body.versions, *asker(request)):
            await live.change(application, body.versions)
        return _json(await live.application(application))

    @router.get("/healthz", response_model=None, include_in_schema=False)
    async def healthz() -> Response:
        """Say that the gateway is alive."""
        return _json({"alive": True})

    @router.get("/readyz", response_model=None, include_in_schema=False)
    async def readyz() -> Response:
        """Tell whether every application answers; 503 if not."""
        parts = await live.ready()
        good = bool(parts) and all(parts.values())
        return _json({"ready": good, "parts": parts}, 200 if good else 503)

    return router


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


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


def _ok(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "description": "Done"}}
