"""Listing, showing, adding and deleting pictures: the routes and their work."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from starlette.responses import Response

from seqvis.collection.filters.where import Where
from seqvis.collection.items import Item, check_new_ids, known
from seqvis.collection.scroll import Page, merge_pages
from seqvis.errors import QueryError
from seqvis.search.requests import EncodedImage
from serve.common.http import ApiError, json_response
from serve.common.settings import Limits
from serve.common.versions import version_key
from serve.gateway import schema
from serve.gateway.access import asker, audited
from serve.gateway.checks import (
    bounded_route,
    check_k,
    check_metadata,
    filter_of,
    given_id,
    mapping_of,
)
from serve.gateway.live import LiveModels
from serve.gateway.schema import answers

Picture = Annotated[str, Depends(given_id)]


def pictures(live: LiveModels, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pictures"], route_class=bounded_route())
    jpeg = {"content": {"image/jpeg": {}}, "description": "The thumbnail"}
    page = {
        "model": schema.PicturesAnswer,
        "content": {"image/jpeg": {}},
        "description": "A page of pictures; with `id`, this one's thumbnail",
    }

    @router.get("/images", response_model=None, responses={200: page})
    async def images(
        request: Request,
        id: Annotated[schema.Id | None, Query(description="Only the thumbnail of this")] = None,  # noqa: A002
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Pictures of a page")] = 100,
        where: Annotated[str | None, Query(description="A filter, as text or as JSON")] = None,
        model: Annotated[schema.ModelName | None, Query(description="A live version")] = None,
    ) -> Response:
        """List the collection page by page, or show a stored picture.

        The order never changes: a picture that is there all the while is on exactly one page,
        whatever is added or deleted meanwhile. A page has more pictures than `limit` only if the
        hashes of ids are equal.
        """
        if id is not None:
            return await thumbnail(given_id(request, id), request)
        check_k(limit, limits, "limit")
        chosen, listed = await list_pictures(live, limit, after, filter_of(where), model)
        shown = [
            {"id": entry.id, "metadata": entry.metadata, "image": image_path(entry.id)}
            for entry in listed.entries
        ]
        return json_response({"model": chosen, "images": shown, "next": listed.next})

    @router.get("/images/{id:path}", response_class=Response, responses={200: jpeg})
    async def thumbnail(picture: Picture, request: Request) -> Response:
        """Show a stored picture, its longer side at most 128 pixels.

        Better give the id as the query parameter `id`, as `image` in answers does. In the path,
        clients and proxies change ids such as `a/../b.jpg` or `/b.jpg` before they arrive.
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
        about = schema.NewPicture.model_construct(
            id=id or None, label=label, name=name, metadata=mapping_of("metadata", metadata)
        )
        picture = await new_picture(file, about, limits)
        with audited("add", *asker(request), ids=[picture.id]) as line:
            result = (await add_pictures(live, [picture]))[picture.id]
            if isinstance(result, QueryError):
                raise result
            if result:
                line["action"] = "overwrite"
        return json_response({"id": picture.id, "image": image_path(picture.id)}, 201)

    @router.delete("/images", response_model=None, responses=answers(schema.DeleteAnswer))
    @router.delete("/images/{id:path}", response_model=None, responses=answers(schema.DeleteAnswer))
    async def delete(picture: Picture, request: Request) -> Response:
        """Delete a picture; within a second searches find it no more.

        Give the id as the query parameter `id`, as `image` in answers does: in the path, another
        id may arrive than was meant.
        """
        with audited("delete", *asker(request), ids=[picture]):
            if not await delete_picture(live, picture):
                raise not_there(picture)
        return json_response({"id": picture, "deleted": True})

    return router


async def thumbnail_of(live: LiveModels, picture: str) -> bytes:
    """Return the JPEG of a stored picture. Raises ApiError (404) if none has this id."""
    owner = live.search_services().owner(picture)
    _, content = await live.ask("search", None, lambda key: owner.thumbnail(key, picture))
    if not content:
        raise not_there(picture)
    return content


async def list_pictures(
    live: LiveModels, limit: int, after: str | None, where: Where | None, name: str | None
) -> tuple[str, Page]:
    """Return the version's name and a page of its pictures."""
    services = live.search_services()

    async def ask(key: str) -> Page:
        pages = await services.ask_shards(lambda shard: shard.scroll(key, limit, after, where))
        return merge_pages(known(pages), limit)

    return await live.ask("search", name, ask)


@dataclass(frozen=True)
class UploadedPicture:
    """A picture to add: its file, and what is stored with it."""

    id: str
    content: bytes
    metadata: Mapping[str, Any]

    def item(self, encoded: EncodedImage) -> Item:
        """Return what is stored, with the picture's place among words."""
        size = {"width": encoded.width, "height": encoded.height}
        stored = {"label": None, "name": None, "path": self.id, **size, **self.metadata}
        return Item(self.id, encoded.vector, stored, encoded.thumbnail)


async def new_picture(
    file: UploadFile, about: schema.NewPicture, limits: Limits
) -> UploadedPicture:
    """Read an uploaded picture. Raises ApiError, or DataError if its id cannot be one."""
    stored = {"label": about.label or None, "name": about.name or about.label or None}
    stored |= about.metadata or {}
    check_metadata(stored, limits)
    content = await content_of(file, limits)
    name = check_new_ids([about.id])[0] if about.id else id_of_upload(content)
    return UploadedPicture(name, content, stored)


async def add_pictures(
    live: LiveModels, pictures: Sequence[UploadedPicture]
) -> dict[str, bool | QueryError]:
    """Add pictures of different ids to every live version, or replace them; durable on return.

    Returns for each id whether a version had it, or why the picture cannot be used.
    """
    services = live.search_services()
    results: dict[str, bool | QueryError] = {picture.id: False for picture in pictures}
    for version in live.live_versions("search").versions:
        key = version_key(version)
        left = [picture for picture in pictures if isinstance(results[picture.id], bool)]
        if not left:
            break
        encoded = await services.encoder.encode_many(key, [picture.content for picture in left])
        items = []
        for picture, image in zip(left, encoded, strict=True):
            if isinstance(image, QueryError):
                results[picture.id] = image
            else:
                items.append(picture.item(image))
        for item, there in zip(items, await services.writer.add(key, items), strict=True):
            results[item.id] = results[item.id] or there
    return results


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


def not_there(name: str) -> ApiError:
    return ApiError(404, f"{name}: no picture has this id")


def id_of_upload(content: bytes) -> str:
    """Return the id of a picture that comes without one; adding it twice changes nothing."""
    return f"uploads/{hashlib.sha256(content).hexdigest()[:20]}"


def image_path(name: str) -> str:
    """Return the path of a picture, for its thumbnail and to DELETE it.

    The id is in the query: in the path, clients and proxies resolve `..`, merge slashes and decode
    percent signs, and so reach another picture.
    """
    return f"/v1/images?id={quote(name, safe='')}"
