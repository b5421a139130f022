"""The HTTP interface: routes that check what they are given and call the gateway's core.

Answers are written as JSON once, by the route; their models stand in the OpenAPI document only.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import swagger_ui_bundle
from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

import seqvis
from seqvis.errors import SeqvisError
from seqvis.search.items import check_ids, encode_metadata
from serve.api import schema
from serve.api.door import Caller, Door, Seen, refuse
from serve.api.errors import ApiError
from serve.core import Core, image_path
from serve.security import Keys
from serve.settings import Application, GatewaySettings, Limits
from serve.work import Work

PAGE = Path(__file__).parents[1] / "page"
_STREAM_TIMES = 100  # texts of a stream, as a multiple of those of one answer
_DOCS_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"

Candidates = Literal["labels", "classes", "wordnet"]


def build_api(
    core: Core, settings: GatewaySettings, keys: Keys | None, seen: Callable[[Seen], None]
) -> Any:
    """The whole interface as an ASGI application."""
    api = FastAPI(
        title="seqvis",
        version=seqvis.__version__,
        summary="Translation, and search of pictures by words and of words by pictures",
        docs_url=None,
        redoc_url=None,
        responses={
            400: {"model": schema.ErrorAnswer, "description": "The request cannot be read"},
            401: {"model": schema.ErrorAnswer, "description": "An API key is needed"},
            403: {"model": schema.ErrorAnswer, "description": "Not allowed"},
            404: {"model": schema.ErrorAnswer, "description": "There is none of this name"},
            405: {"model": schema.ErrorAnswer, "description": "No such method here"},
            413: {"model": schema.ErrorAnswer, "description": "Too large"},
            422: {"model": schema.ErrorAnswer, "description": "Something in it is not possible"},
            429: {"model": schema.ErrorAnswer, "description": "Too many requests with this key"},
            503: {"model": schema.ErrorAnswer, "description": "Too much to do; see Retry-After"},
        },
    )
    _add_error_handlers(api)
    api.include_router(_translation(core, settings.limits))
    api.include_router(_searching(core, settings.limits))
    api.include_router(_pictures(core, settings.limits))
    api.include_router(_operating(core))
    _add_pages(api)
    return Door(api, keys, settings.replicas, settings.limits.body_bytes, seen, settings.access_log)


def _translation(core: Core, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["translation"])

    @router.post("/translate", response_model=None, responses=_ok(schema.TranslateAnswer))
    async def translate(asked: schema.TranslateRequest) -> Response:
        """Translates one text or many; with `stream`, each as soon as it ends."""
        texts = [asked.text] if isinstance(asked.text, str) else asked.text
        _check_texts(texts, asked, limits)
        work = Work(asked.beam, asked.n_best, asked.length_penalty, asked.attention, asked.partial)
        if asked.stream:
            items = await _begun(core.stream(texts, work, asked.model))
            return StreamingResponse(_lines(items), media_type="application/x-ndjson")
        model, translations = await core.translate(texts, work, asked.model)
        return _json({"model": model, "translations": translations})

    return router


def _searching(core: Core, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["search"])

    @router.post("/search/text", response_model=None, responses=_ok(schema.SearchAnswer))
    async def search_text(asked: schema.SearchTextRequest) -> Response:
        """Pictures near words, or near a signed sum of words."""
        _check_k(asked.k, limits)
        model, found = await core.find_words(
            asked.query, asked.k, asked.min_score, asked.where, asked.model
        )
        return _json({"model": model, "matches": found})

    @router.post("/search/like", response_model=None, responses=_ok(schema.SearchAnswer))
    async def search_like(asked: schema.SearchLikeRequest) -> Response:
        """Pictures near a stored one."""
        _check_k(asked.k, limits)
        check_ids([asked.id])
        model, found = await core.find_like(
            asked.id, asked.k, asked.min_score, asked.where, asked.model
        )
        return _json({"model": model, "matches": found})

    @router.post("/search/image", response_model=None, responses=_ok(schema.SearchAnswer))
    async def search_image(
        file: Annotated[UploadFile, File(description="A JPEG, PNG, GIF, WebP, BMP or TIFF")],
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        min_score: Annotated[float | None, Form(ge=-1, le=1, allow_inf_nan=False)] = None,
        where: Annotated[str | None, Form(description="A filter as JSON")] = None,
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """Pictures near an uploaded one."""
        _check_k(k, limits)
        chosen, found = await core.find_picture(
            await _content(file, limits), k, min_score, _mapping("where", where), model or None
        )
        return _json({"model": chosen, "matches": found})

    @router.post("/classify", response_model=None, responses=_ok(schema.ClassifyAnswer))
    async def classify(
        file: Annotated[UploadFile | None, File(description="A picture, or else an id")] = None,
        id: Annotated[str | None, Form(max_length=schema.LONGEST_ID)] = None,  # noqa: A002
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        candidates: Annotated[Candidates, Form()] = "classes",
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """The words nearest to a picture: the model's own, ImageNet's 1,000, or all of WordNet."""
        if (file is None) == (not id):
            raise ApiError(422, "give either a file or the id of a stored picture")
        picture: bytes | str
        if file is not None:
            picture = await _content(file, limits)
        else:
            picture = check_ids([id or ""])[0]
        chosen, words = await core.classify(picture, k, candidates, model or None)
        return _json({"model": chosen, "words": words})

    return router


def _pictures(core: Core, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pictures"])

    @router.get(
        "/images/{id:path}",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "The thumbnail"}},
    )
    async def thumbnail(id: str, request: Request) -> Response:  # noqa: A002
        """A stored picture, its longer side at most 128 pixels."""
        content = await core.thumbnail(check_ids([id])[0])
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
        file: Annotated[UploadFile, File(description="The picture")],
        id: Annotated[str | None, Form(max_length=schema.LONGEST_ID)] = None,  # noqa: A002
        label: Annotated[str | None, Form(max_length=200)] = None,
        name: Annotated[str | None, Form(max_length=200)] = None,
        metadata: Annotated[str | None, Form(description="Further values as JSON")] = None,
    ) -> Response:
        """Adds a picture, or replaces the one of this id; searches find it within a second."""
        about = {
            "label": label or None,
            "name": name or label or None,
            **(_mapping("metadata", metadata) or {}),
        }
        encode_metadata("metadata", about)
        picture = check_ids([id])[0] if id else None
        added = await core.add(await _content(file, limits), picture, about)
        return _json({"id": added, "image": image_path(added)}, 201)

    @router.delete("/images/{id:path}", response_model=None, responses=_ok(schema.DeleteAnswer))
    async def delete(id: str) -> Response:  # noqa: A002
        """Deletes a picture; searches no longer find it within a second."""
        if not await core.delete(check_ids([id])[0]):
            raise ApiError(404, f"{id}: no picture has this id")
        return _json({"id": id, "deleted": True})

    return router


def _operating(core: Core) -> APIRouter:
    router = APIRouter(tags=["operating"])

    @router.get("/v1/models", response_model=None, responses=_ok(schema.ModelsAnswer))
    async def models() -> Response:
        """What is live."""
        return _json(await core.models())

    @router.put(
        "/v1/models/{application}", response_model=None, responses=_ok(schema.LiveApplication)
    )
    async def change(
        application: Application, asked: schema.ChangeModels, request: Request
    ) -> Response:
        """Makes these versions live, without a pause; each is loaded and tried first."""
        caller: Caller = request.state.caller
        if not caller.admin:
            raise ApiError(403, "this key may not change models")
        await core.change(application, asked.versions)
        return _json(await core.application(application))

    @router.get("/healthz", response_model=None, include_in_schema=False)
    async def healthz() -> Response:
        """The gateway is alive."""
        return _json({"alive": True})

    @router.get("/readyz", response_model=None, include_in_schema=False)
    async def readyz() -> Response:
        """Whether every application answers; 503 if not."""
        parts = await core.ready()
        good = bool(parts) and all(parts.values())
        return _json({"ready": good, "parts": parts}, 200 if good else 503)

    return router


def _add_pages(api: FastAPI) -> None:
    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        found = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="seqvis",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon-32x32.png",
        )
        found.headers["content-security-policy"] = (
            f"{_DOCS_POLICY}; script-src 'self' 'unsafe-inline'"
        )
        return found

    api.mount("/docs/files", StaticFiles(directory=swagger_ui_bundle.swagger_ui_path))
    api.mount("/page", StaticFiles(directory=PAGE))


def _add_error_handlers(api: FastAPI) -> None:
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


def _check_texts(texts: list[str], asked: schema.TranslateRequest, limits: Limits) -> None:
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


def _check_k(k: int, limits: Limits) -> None:
    if k > limits.matches:
        raise ApiError(422, f"k is {k:,}; at most {limits.matches:,} is allowed here")


async def _content(file: UploadFile, limits: Limits) -> bytes:
    content = await file.read(limits.image_bytes + 1)
    if len(content) > limits.image_bytes:
        raise ApiError(413, f"a picture may have {limits.image_bytes:,} bytes at most")
    return content


def _mapping(field: str, text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError(422, f"{field}: is not JSON") from None
    if not isinstance(found, dict):
        raise ApiError(422, f"{field}: is no object of names and values")
    return found


async def _begun(items: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The same items, the first already there: what fails before it still has its status."""
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
    except Exception:  # the status is sent already, so the last line must tell
        problem = {"code": "unavailable", "message": "the translator stopped answering; ask again"}
        yield json.dumps({"error": problem}).encode() + b"\n"


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


def _ok(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "description": "Done"}}
