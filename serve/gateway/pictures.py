"""Searching, and adding and deleting pictures: the routes and their work.

The replicas hold the models and the collection; this asks them and merges their answers.
"""

import hashlib
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from starlette.responses import Response

from seqvis.collection.items import Item, Match, check_ids, check_new_ids, merge
from seqvis.errors import UnknownFieldError
from seqvis.search.requests import ImageQuery, LikeQuery, NameSet, SearchRequest, TextQuery
from serve.common.http import ApiError, json_response
from serve.common.settings import Limits
from serve.common.versions import version_key
from serve.gateway import schema
from serve.gateway.access import asker, audited
from serve.gateway.checks import (
    bounded_route,
    check_filter,
    check_k,
    check_metadata,
    given_id,
    mapping_of,
)
from serve.gateway.live import LiveModels
from serve.gateway.schema import answers

Picture = Annotated[str, Depends(given_id)]


def searching(live: LiveModels, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["search"], route_class=bounded_route())

    @router.post("/search/text", response_model=None, responses=answers(schema.SearchTextAnswer))
    async def search_text(body: schema.SearchTextRequest) -> Response:
        """Find pictures near words, or near a signed sum of words."""
        check_k(body.k, limits)
        check_filter(body.where)
        request = SearchRequest(TextQuery(body.query), body.k, body.min_score, body.where)
        model, read_as, matches = await search(live, request, body.model)
        return json_response({"model": model, "read_as": read_as, "matches": matches})

    @router.post("/search/like", response_model=None, responses=answers(schema.SearchAnswer))
    async def search_like(body: schema.SearchLikeRequest) -> Response:
        """Find pictures near a stored one."""
        check_k(body.k, limits)
        check_filter(body.where)
        check_ids([body.id])
        request = SearchRequest(LikeQuery(body.id), body.k, body.min_score, body.where)
        model, _, matches = await search(live, request, body.model)
        return json_response({"model": model, "matches": matches})

    @router.post("/search/image", response_model=None, responses=answers(schema.SearchAnswer))
    async def search_image(
        file: Annotated[UploadFile, File(description="A JPEG, PNG, GIF, WebP, BMP or TIFF")],
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        min_score: Annotated[float | None, Form(ge=-1, le=1, allow_inf_nan=False)] = None,
        where: Annotated[str | None, Form(description="A filter as JSON")] = None,
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """Find pictures near an uploaded one."""
        check_k(k, limits)
        metadata_filter = mapping_of("where", where)
        check_filter(metadata_filter)
        query = ImageQuery(await _content_of(file, limits))
        request = SearchRequest(query, k, min_score, metadata_filter)
        chosen, _, matches = await search(live, request, model or None)
        return json_response({"model": chosen, "matches": matches})

    @router.post("/classify", response_model=None, responses=answers(schema.ClassifyAnswer))
    async def classify(
        file: Annotated[UploadFile | None, File(description="A picture, or else an id")] = None,
        id: Annotated[str | None, Form(max_length=schema.LONGEST_ID)] = None,  # noqa: A002
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        candidates: Annotated[NameSet, Form()] = "classes",
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """Name a picture by the model's own words, ImageNet's 1,000, or all of WordNet."""
        if (file is None) == (not id):
            raise ApiError(422, "give either a file or the id of a stored picture")
        check_k(k, limits)
        picture: ImageQuery | LikeQuery
        if file is not None:
            picture = ImageQuery(await _content_of(file, limits))
        else:
            picture = LikeQuery(check_ids([id or ""])[0])
        chosen, words = await name_picture(live, picture, k, candidates, model or None)
        return json_response({"model": chosen, "words": words})

    return router


def pictures(live: LiveModels, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pictures"], route_class=bounded_route())
    jpeg = {"content": {"image/jpeg": {}}, "description": "The thumbnail"}

    @router.get("/images", response_class=Response, responses={200: jpeg})
    @router.get("/images/{id:path}", response_class=Response, responses={200: jpeg})
    async def thumbnail(picture: Picture, request: Request) -> Response:
        """Show a stored picture, its longer side at most 128 pixels.

        Give the id as the query parameter `id`, as `image` in answers does. In the path, clients
        and proxies change ids such as `a/../b.jpg` or `/b.jpg` before they arrive.
        """
        content = await thumbnail_of(live, picture)
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
        """Add a picture, or replace the one of this id; searches find it within a second."""
        stored = {"label": label or None, "name": name or label or None}
        stored |= mapping_of("metadata", metadata) or {}
        check_metadata(stored, limits)
        content = await _content_of(file, limits)
        picture = check_new_ids([id])[0] if id else id_of_upload(content)
        with audited("add", *asker(request), ids=[picture]) as line:
            if await add_picture(live, content, picture, stored):
                line["action"] = "overwrite"
        return json_response({"id": picture, "image": image_path(picture)}, 201)

    @router.delete("/images", response_model=None, responses=answers(schema.DeleteAnswer))
    @router.delete("/images/{id:path}", response_model=None, responses=answers(schema.DeleteAnswer))
    async def delete(picture: Picture, request: Request) -> Response:
        """Delete a picture; within a second searches find it no more.

        Give the id as the query parameter `id`, as `image` in answers does: in the path, another
        id may arrive than was meant.
        """
        with audited("delete", *asker(request), ids=[picture]):
            if not await delete_picture(live, picture):
                raise ApiError(404, f"{picture}: no picture has this id")
        return json_response({"id": picture, "deleted": True})

    return router


async def search(
    live: LiveModels, request: SearchRequest, name: str | None
) -> tuple[str, str, list[dict[str, Any]]]:
    """Return the version's name, how a query in words is read, and the matches."""
    services = live.search_services()

    async def ask(key: str) -> tuple[str, list[Match]]:
        query, nearest = request.query, request
        if isinstance(query, ImageQuery | LikeQuery):
            nearest = request.at(await _vector_of(live, key, query))
        answers = await services.search(key, nearest)
        read = [answer[0] for answer in answers if not isinstance(answer, UnknownFieldError)]
        matches = [
            answer if isinstance(answer, UnknownFieldError) else answer[1] for answer in answers
        ]
        return "".join(read[:1]), request.select(merge(matches, nearest.k))

    model, (read_as, matches) = await live.ask("search", name, ask)
    return model, read_as, [_match_json(match) for match in matches]


async def name_picture(
    live: LiveModels, picture: ImageQuery | LikeQuery, k: int, candidates: NameSet, name: str | None
) -> tuple[str, list[dict[str, Any]]]:
    """Return the version's name and the words nearest to a picture."""
    encoder = live.search_services().encoder

    async def ask(key: str) -> list[dict[str, Any]]:
        return await encoder.classify(key, await _vector_of(live, key, picture), k, candidates)

    return await live.ask("search", name, ask)


async def thumbnail_of(live: LiveModels, picture: str) -> bytes:
    """Return the JPEG of a stored picture. Raises ApiError (404) if none has this id."""
    owner = live.search_services().owner(picture)
    _, content = await live.ask("search", None, lambda key: owner.thumbnail(key, picture))
    if not content:
        raise ApiError(404, f"{picture}: no picture has this id")
    return content


async def add_picture(
    live: LiveModels, content: bytes, name: str, metadata: Mapping[str, Any]
) -> bool:
    """Add a picture to every live version, or replace it; it is durable on return.

    Returns whether a version had one of this id.
    """
    services = live.search_services()
    replaced = False
    for version in live.live_versions("search").versions:
        key = version_key(version)
        encoded = await services.encoder.encode(key, content)
        stored = {
            "label": None,
            "name": None,
            "path": name,
            "width": encoded.width,
            "height": encoded.height,
            **metadata,
        }
        item = Item(name, encoded.vector, stored, encoded.thumbnail)
        replaced |= await services.writer.add(key, item)
    return replaced


async def delete_picture(live: LiveModels, name: str) -> bool:
    """Delete a picture from every live version; return whether one had it."""
    writer = live.search_services().writer
    deleted = False
    for version in live.live_versions("search").versions:
        deleted |= await writer.delete(version_key(version), name)
    return deleted


async def _vector_of(live: LiveModels, key: str, picture: ImageQuery | LikeQuery) -> np.ndarray:
    services = live.search_services()
    if isinstance(picture, ImageQuery):
        return (await services.encoder.encode(key, picture.content)).vector
    vector = await services.owner(picture.id).vector(key, picture.id)
    if vector is None:
        raise ApiError(404, f"{picture.id}: no picture has this id")
    return vector


async def _content_of(file: UploadFile, limits: Limits) -> bytes:
    """Return the bytes of an uploaded picture. Raises ApiError (413) if there are too many."""
    content = await file.read(limits.image_bytes + 1)
    if len(content) > limits.image_bytes:
        raise ApiError(413, f"a picture may have {limits.image_bytes:,} bytes at most")
    return content


def id_of_upload(content: bytes) -> str:
    """Return the id of a picture that comes without one; adding it twice changes nothing."""
    return f"uploads/{hashlib.sha256(content).hexdigest()[:20]}"


def image_path(name: str) -> str:
    """Return the path of a picture, for its thumbnail and to DELETE it.

    The id is in the query: in the path, clients and proxies resolve `..`, merge slashes and decode
    percent signs, and so reach another picture.
    """
    return f"/v1/images?id={quote(name, safe='')}"


def _match_json(match: Match) -> dict[str, Any]:
    return {
        "id": match.id,
        "score": round(match.score, 4),
        "metadata": match.metadata,
        "image": image_path(match.id),
    }
