"""Searching for pictures, and naming one: the routes and their work.

The replicas hold the models and the collection; this asks them and merges their answers.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile
from starlette.responses import Response

from seqvis.collection.items import Match, check_ids, merge
from seqvis.errors import QueryError, UnknownFieldError
from seqvis.search.requests import (
    ImageQuery,
    LikeQuery,
    NameSet,
    SearchRequest,
    TextQuery,
    VectorQuery,
)
from serve.common.http import ApiError, json_response
from serve.common.services import Found
from serve.common.settings import Limits
from serve.gateway import schema
from serve.gateway.checks import bounded_route, check_filter, check_k, filter_of
from serve.gateway.live import LiveModels
from serve.gateway.pictures import content_of, image_path, not_there
from serve.gateway.schema import answers


def searching(live: LiveModels, limits: Limits) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["search"], route_class=bounded_route())

    @router.post("/search/text", response_model=None, responses=answers(schema.SearchTextAnswer))
    async def search_text(body: schema.SearchTextRequest) -> Response:
        """Find pictures near words, or near a signed sum of words."""
        check_k(body.k, limits)
        where = check_filter(body.where)
        request = SearchRequest(TextQuery(body.query), body.k, body.min_score, where)
        model, read_as, matches = await search(live, request, body.model)
        return json_response({"model": model, "read_as": read_as, "matches": matches})

    @router.post("/search/like", response_model=None, responses=answers(schema.SearchAnswer))
    async def search_like(body: schema.SearchLikeRequest) -> Response:
        """Find pictures near a stored one."""
        check_k(body.k, limits)
        where = check_filter(body.where)
        check_ids([body.id])
        request = SearchRequest(LikeQuery(body.id), body.k, body.min_score, where)
        model, _, matches = await search(live, request, body.model)
        return json_response({"model": model, "matches": matches})

    @router.post("/search/image", response_model=None, responses=answers(schema.SearchAnswer))
    async def search_image(
        file: Annotated[UploadFile, File(description="A JPEG, PNG, GIF, WebP, BMP or TIFF")],
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
        min_score: Annotated[float | None, Form(ge=-1, le=1, allow_inf_nan=False)] = None,
        where: Annotated[str | None, Form(description="A filter, as text or as JSON")] = None,
        model: Annotated[str | None, Form(max_length=64)] = None,
    ) -> Response:
        """Find pictures near an uploaded one."""
        check_k(k, limits)
        conditions = filter_of(where)
        query = ImageQuery(await content_of(file, limits))
        request = SearchRequest(query, k, min_score, conditions)
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
            picture = ImageQuery(await content_of(file, limits))
        else:
            picture = LikeQuery(check_ids([id or ""])[0])
        chosen, words = await name_picture(live, picture, k, candidates, model or None)
        return json_response({"model": chosen, "words": words})

    return router


async def search(
    live: LiveModels, request: SearchRequest, name: str | None
) -> tuple[str, str, list[dict[str, Any]]]:
    """Return the version's name, how a query in words is read, and the matches."""
    model, [answer] = await search_all(live, [request], name)
    if isinstance(answer, Exception):
        raise answer
    read_as, matches = answer
    return model, read_as, [match_json(match) for match in matches]


async def search_all(
    live: LiveModels, requests: Sequence[SearchRequest], name: str | None
) -> tuple[str, list[Found | QueryError | ApiError]]:
    """Return the version's name, and what each request finds, or its error."""
    services = live.search_services()

    async def ask(key: str) -> list[Found | QueryError | ApiError]:
        placed = await _placed(live, key, requests)
        usable = [near for near in placed if isinstance(near, SearchRequest)]
        by_shard = await services.ask_shards(lambda shard: shard.search(key, usable))
        found = zip(*by_shard, strict=True)
        return [
            _merged(request, near.k, next(found)) if isinstance(near, SearchRequest) else near
            for request, near in zip(requests, placed, strict=True)
        ]

    return await live.ask("search", name, ask)


async def _placed(
    live: LiveModels, key: str, requests: Sequence[SearchRequest]
) -> list[SearchRequest | ApiError]:
    """Return the requests for what is near their pictures; ApiError (404) if one is not stored."""
    services = live.search_services()
    stored = [request.query.id for request in requests if isinstance(request.query, LikeQuery)]
    vectors = await services.vectors(key, stored)
    placed: list[SearchRequest | ApiError] = []
    for request in requests:
        query = request.query
        if isinstance(query, ImageQuery):
            placed.append(request.at((await services.encoder.encode(key, query.content)).vector))
        elif isinstance(query, LikeQuery):
            vector = vectors[query.id]
            placed.append(not_there(query.id) if vector is None else request.at(vector))
        else:
            placed.append(request)
    return placed


def _merged(
    request: SearchRequest, k: int, answers: Sequence[Found | QueryError]
) -> Found | QueryError:
    """Return the answer of all shards, each of which was asked for `k` matches."""
    read_as, matches = "", list[list[Match] | UnknownFieldError]()
    for answer in answers:
        if isinstance(answer, UnknownFieldError):
            matches.append(answer)
        elif isinstance(answer, QueryError):
            return answer
        else:
            read_as = answer[0]
            matches.append(answer[1])
    try:
        return read_as, request.select(merge(matches, k))
    except UnknownFieldError as error:
        return error


async def name_picture(
    live: LiveModels, picture: ImageQuery | LikeQuery, k: int, candidates: NameSet, name: str | None
) -> tuple[str, list[dict[str, Any]]]:
    """Return the version's name and the words nearest to a picture."""
    encoder = live.search_services().encoder

    async def ask(key: str) -> list[dict[str, Any]]:
        [near] = await _placed(live, key, [SearchRequest(picture)])
        if isinstance(near, ApiError):
            raise near
        assert isinstance(near.query, VectorQuery)
        return await encoder.classify(key, near.query.vector, k, candidates)

    return await live.ask("search", name, ask)


def match_json(match: Match) -> dict[str, Any]:
    return {
        "id": match.id,
        "score": round(match.score, 4),
        "metadata": match.metadata,
        "image": image_path(match.id),
    }
