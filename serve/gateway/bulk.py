"""Routes for many at once: adding pictures, and searching for them.

What is wrong with one picture or one search is said in its place of the answer; the others are done
all the same. A request counts as as many as it holds.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from seqvis.errors import DataError, QueryError
from seqvis.search.requests import LikeQuery, SearchRequest, TextQuery
from serve.common.http import ApiError, as_api_error, json_response, problem_of
from serve.common.services import Found
from serve.common.settings import Limits
from serve.gateway import schema
from serve.gateway.access import asker, audited
from serve.gateway.checks import (
    VALUES_OF_MANY,
    bounded_route,
    check_filter,
    check_searches,
    read_json,
)
from serve.gateway.live import LiveModels
from serve.gateway.pictures import UploadedPicture, add_pictures, image_path, new_picture
from serve.gateway.schema import answers
from serve.gateway.searching import match_json, search_all

_ABOUT = TypeAdapter(list[schema.NewPicture])


def bulk(live: LiveModels, limits: Limits) -> APIRouter:
    reading = bounded_route(VALUES_OF_MANY, limits.images, limits.images * limits.metadata_bytes)
    router = APIRouter(prefix="/v1", route_class=reading)

    @router.post(
        "/search/batch",
        response_model=None,
        responses=answers(schema.SearchBatchAnswer),
        tags=["search"],
    )
    async def search_batch(body: schema.SearchBatchRequest, request: Request) -> Response:
        """Search several times; counts as that many requests of a key."""
        check_searches(body.searches, limits)
        requests = [
            SearchRequest(
                TextQuery(each.query or "") if each.id is None else LikeQuery(each.id),
                each.k,
                each.min_score,
                check_filter(each.where),
            )
            for each in body.searches
        ]
        request.state.pay(len(body.searches))
        model, found = await search_all(live, requests, body.model)
        return json_response({"model": model, "results": [_found_json(each) for each in found]})

    @router.post(
        "/images/batch",
        response_model=None,
        responses=answers(schema.AddBatchAnswer),
        tags=["pictures"],
    )
    async def add_batch(
        request: Request,
        file: Annotated[list[UploadFile], File(description="The pictures")],
        items: Annotated[
            str | None, Form(description="What to store with each: a list of NewPicture, as JSON")
        ] = None,
    ) -> Response:
        """Add several pictures, or replace those of their ids; counts as that many requests.

        Those that can be used are on the disk when the answer comes.
        """
        about = _about(items, len(file))
        request.state.pay(len(file))
        read: list[UploadedPicture | ApiError | DataError] = []
        pictures: dict[str, UploadedPicture] = {}
        for upload, given in zip(file, about, strict=True):
            picture = await _read(upload, given, limits)
            if isinstance(picture, UploadedPicture):
                first = pictures.setdefault(picture.id, picture)
                if first is not picture:
                    picture = DataError(f"{picture.id}: is given twice; give each id once")
            read.append(picture)
        with audited("add", *asker(request), ids=list(pictures)) as line:
            stored = await add_pictures(live, list(pictures.values()))
            line["overwritten"] = [name for name, result in stored.items() if result is True]
            line["refused"] = [
                name for name, result in stored.items() if isinstance(result, QueryError)
            ]
        results = [
            _added_json(given.id, picture, stored)
            for given, picture in zip(about, read, strict=True)
        ]
        added = sum(result["status"] != "refused" for result in results)
        return json_response({"results": results, "added": added})

    return router


def _about(items: str | None, count: int) -> list[schema.NewPicture]:
    """Return what to store with each of `count` pictures. Raises ApiError (422)."""
    if not items:
        return [schema.NewPicture()] * count
    try:
        about = _ABOUT.validate_python(read_json("items", items.encode(), VALUES_OF_MANY))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ApiError(422, f"items.{where}: {problem['msg']}") from None
    if len(about) != count:
        raise ApiError(422, f"items: has {len(about):,} entries for {count:,} pictures")
    return about


async def _read(
    file: UploadFile, about: schema.NewPicture, limits: Limits
) -> UploadedPicture | ApiError | DataError:
    try:
        return await new_picture(file, about, limits)
    except (ApiError, DataError) as error:
        return error


def _added_json(
    name: str | None,
    picture: UploadedPicture | ApiError | DataError,
    stored: Mapping[str, bool | QueryError],
) -> dict[str, Any]:
    result = stored[picture.id] if isinstance(picture, UploadedPicture) else picture
    if isinstance(picture, UploadedPicture):
        name = picture.id
    if isinstance(result, Exception):
        return {"id": name, "status": "refused", "error": problem_of(as_api_error(result))}
    assert name is not None
    return {"id": name, "status": "replaced" if result else "added", "image": image_path(name)}


def _found_json(answer: Found | QueryError | ApiError) -> dict[str, Any]:
    if isinstance(answer, Exception):
        return {"error": problem_of(as_api_error(answer))}
    return {"read_as": answer[0], "matches": [match_json(match) for match in answer[1]]}
