"""Showing, adding and deleting pictures: the routes and their work."""

import hashlib
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from starlette.responses import Response

from seqvis.collection.items import Item, check_new_ids
from serve.common.http import ApiError, json_response
from serve.common.settings import Limits
from serve.common.versions import version_key
from serve.gateway import schema
from serve.gateway.access import asker, audited
from serve.gateway.checks import bounded_route, check_metadata, given_id, mapping_of
from serve.gateway.live import LiveModels
from serve.gateway.schema import answers

Picture = Annotated[str, Depends(given_id)]


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
        content = await content_of(file, limits)
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


async def content_of(file: UploadFile, limits: Limits) -> bytes:
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
