"""The routes of LibreTranslate, so that its clients can use this server for the pair it translates.

`/translate`, `/languages` and `/detect` take JSON and forms, and a key in the body as well as in a
header. Errors have LibreTranslate's form and statuses. A text is a sentence, or one a line.
"""

import asyncio
import html
import json
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from serve.common.http import ApiError, UnavailableError, response
from serve.common.settings import Limits, Version
from serve.common.versions import version_key
from serve.gateway import schema
from serve.gateway.checks import BoundedRequest, bounded_route
from serve.gateway.live import LiveModels

Translate = Callable[
    [list[str], schema.TranslateRequest, Request], Awaitable[tuple[str, list[dict[str, Any]]]]
]
"""Translates texts for a request, within its limits."""
Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")

PATHS = ("/translate", "/detect", "/languages")
_STATUSES = {401: 403, 422: 400}
_TAG = re.compile(r"(<[^<>]*>)")
_VERBATIM = re.compile(r"<(/?)(?:script|style)\b", re.IGNORECASE)


class TranslateBody(schema.Described):
    """As LibreTranslate has it."""

    q: str | list[str] = Field(examples=["Où est le chat ?"])
    """A text or several; each a sentence, or one a line."""
    source: str = Field(examples=["auto"])
    """The language that is served, or `auto`, which means it."""
    target: str = Field(examples=["en"])
    format: Literal["text", "html"] = "text"
    """Of HTML, what stands between tags is translated, each piece by itself."""
    alternatives: int = Field(0, ge=0, le=64)
    """Further translations; they need a beam of one more."""
    api_key: str | None = None


class DetectBody(schema.Described):
    q: str = Field(min_length=1, examples=["Où est le chat ?"])
    api_key: str | None = None


class Language(schema.Described):
    code: str
    name: str
    targets: list[str]


class Detection(schema.Described):
    language: str
    confidence: float
    """Percent of the text's words that the model knows in this language."""


class LibreTranslateAnswer(schema.Described):
    translatedText: str | list[str]  # noqa: N815
    alternatives: list[str] | list[list[str]] | None = None
    detectedLanguage: Detection | list[Detection] | None = None  # noqa: N815


class LibreTranslateError(schema.Described):
    error: str


def libretranslate(live: LiveModels, limits: Limits, translate: Translate) -> APIRouter:
    router = APIRouter(tags=["LibreTranslate"], route_class=bounded_route())
    pairs = _Pairs(live)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": LibreTranslateError} for status in (400, 403, 404, 413, 429, 503)
    }

    @router.post(
        "/translate",
        response_model=None,
        responses={200: {"model": LibreTranslateAnswer}, **errors},
        openapi_extra=_takes(TranslateBody),
    )
    async def translate_as_there(request: Request) -> Response:
        """Translate a text or several, as LibreTranslate does."""
        body = await _body_of(request, TranslateBody)
        if body.alternatives >= limits.beam:
            raise ApiError(422, f"alternatives: at most {limits.beam - 1} are allowed here")
        model, source = await pairs.model_for(body.source.lower(), body.target.lower())
        texts = [body.q] if isinstance(body.q, str) else body.q
        if len(texts) > limits.texts:
            raise ApiError(422, f"{len(texts):,} texts; {limits.texts:,} at most")
        documents = [_pieces(text.replace("\r\n", "\n"), body.format) for text in texts]
        sentences = [piece.strip() for pieces in documents for piece, is_text in pieces if is_text]
        beam = body.alternatives + 1
        translations: list[dict[str, Any]] = []
        if sentences:
            wanted = schema.TranslateRequest(text=sentences, beam=beam, n_best=beam, model=model)
            _, translations = await translate(sentences, wanted, request)
        written = iter([_texts_of(translation) for translation in translations])
        results = [_written(pieces, written, body.format, beam) for pieces in documents]
        best = [versions[0] for versions in results]
        many = isinstance(body.q, list)
        answer: dict[str, Any] = {"translatedText": best if many else best[0]}
        if body.alternatives:
            others = [list(dict.fromkeys(versions[1:])) for versions in results]
            answer["alternatives"] = others if many else others[0]
        if body.source.lower() == "auto":
            heads = [text[: limits.characters] for text in texts]
            detected = [
                {"language": source, "confidence": known[source]}
                for known in await _known(live, model, heads)
            ]
            answer["detectedLanguage"] = detected if many else detected[0]
        return _json(answer)

    @router.post(
        "/detect",
        response_model=None,
        responses={200: {"model": list[Detection]}, **errors},
        openapi_extra=_takes(DetectBody),
    )
    async def detect(request: Request) -> Response:
        """Say how much of a text's words is known in each language of the pair, most first."""
        body = await _body_of(request, DetectBody)
        if len(body.q) > limits.characters:
            raise ApiError(422, f"a text may have {limits.characters:,} characters at most")
        model, _ = await pairs.model_for("auto", None)
        [known] = await _known(live, model, [body.q])
        ordered = sorted(known.items(), key=lambda item: -item[1])
        return _json([{"language": code, "confidence": share} for code, share in ordered])

    @router.get(
        "/languages", response_model=None, responses={200: {"model": list[Language]}, **errors}
    )
    async def languages() -> Response:
        """List the languages that are translated, and into which."""
        targets: dict[str, dict[str, None]] = {}
        for source, target in (await pairs.served()).values():
            targets.setdefault(source, {})[target] = None
        names = await asyncio.to_thread(_names)
        return _json(
            [
                {"code": code, "name": names.get(code, code), "targets": list(into)}
                for code, into in targets.items()
            ]
        )

    return router


def refusal(error: ApiError, request_id: str) -> Response:
    """Return the answer for an error in LibreTranslate's form."""
    answer = response(error, request_id, {"error": str(error)})
    answer.status_code = _STATUSES.get(error.status, error.status)
    return answer


async def with_key_of_body(scope: Scope, receive: Receive) -> Receive:
    """Put the `api_key` of a body among the headers, unless these have a key.

    Returns the `receive` that gives the body once more. Raises ApiError if it cannot be read.
    """
    if not {"authorization", "x-api-key"}.isdisjoint(Headers(scope=scope)):
        return receive
    content = await _unbroken(Request(scope, receive).body())
    given = await _given(BoundedRequest(Request(scope, _again(content, receive))))
    if isinstance(given.get("api_key"), str):
        MutableHeaders(scope=scope)["x-api-key"] = given["api_key"]
    return _again(content, receive)


def _again(content: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def _given(request: Request) -> dict[str, Any]:
    """Return the fields of a body, of JSON or a form."""
    if "json" in request.headers.get("content-type", ""):
        given = await _unbroken(request.json())
        if not isinstance(given, dict):
            raise ApiError(422, "Invalid request: the body is no object of names and values")
        return given
    return dict(await _unbroken(request.form()))


async def _unbroken(body: Awaitable[T]) -> T:
    try:
        return await body
    except ClientDisconnect:
        raise ApiError(400, "the request broke off") from None


async def _body_of(request: Request, model: type[Body]) -> Body:
    try:
        return model.model_validate(await _given(request))
    except ValidationError as error:
        problem = error.errors()[0]
        name = problem["loc"][0] if problem["loc"] else "body"
        raise ApiError(422, f"Invalid request: {name}: {problem['msg']}") from None


class _Pairs:
    """The languages of the live versions; a version is asked for them once."""

    def __init__(self, live: LiveModels):
        self._live = live
        self._known: dict[str, tuple[str, str]] = {}

    async def served(self) -> dict[Version, tuple[str, str]]:
        """Return source and target of each version. Raises UnavailableError if none is loaded."""
        service = self._live.translator_service()
        versions = self._live.live_versions("translator").versions
        if any(version_key(version) not in self._known for version in versions):
            for key, about in (await service.describe())["versions"].items():
                self._known[key] = about["source_language"], about["target_language"]
        pairs = {version: self._known.get(version_key(version)) for version in versions}
        loaded = {version: pair for version, pair in pairs.items() if pair}
        if not loaded:
            raise UnavailableError("the model is being loaded")
        return loaded

    async def model_for(self, source: str, target: str | None) -> tuple[str | None, str]:
        """Return the version to ask, None if any will do, and its source language.

        `source` may be "auto"; without a target any version will do. Raises ApiError if the pair is
        not served.
        """
        served = await self.served()
        fitting = {
            version: pair
            for version, pair in served.items()
            if source in ("auto", pair[0]) and target in (None, pair[1])
        }
        if not fitting:
            there = ", ".join(
                dict.fromkeys(f"{first} to {last}" for first, last in served.values())
            )
            raise ApiError(422, f"{source} to {target} is not supported here; there are: {there}")
        versions = list(fitting)
        shares = [version.share for version in versions]
        chosen = random.choices(versions, shares)[0] if any(shares) else versions[0]
        return None if len(set(served.values())) == 1 else chosen.name, fitting[chosen][0]


async def _known(
    live: LiveModels, model: str | None, texts: Sequence[str]
) -> list[dict[str, float]]:
    """Return what percentage of each text's words is known in each language of the pair."""
    service = live.translator_service()
    _, shares = await live.ask("translator", model, lambda key: service.detect(key, texts))
    return [{code: round(100 * share, 1) for code, share in each.items()} for each in shares]


def _pieces(text: str, kind: str) -> list[tuple[str, bool]]:
    """Return a text in pieces, and which of them are sentences to translate."""
    if kind == "text":
        return [(piece, bool(piece.strip())) for piece in re.split(r"(\n)", text)]
    pieces: list[tuple[str, bool]] = []
    verbatim = False
    for place, piece in enumerate(_TAG.split(text)):
        is_text = place % 2 == 0 and not verbatim and bool(piece.strip())
        if place % 2 and (script := _VERBATIM.match(piece)):
            verbatim = not script[1]
        pieces.append((html.unescape(piece) if is_text else piece, is_text))
    return pieces


def _texts_of(translation: dict[str, Any]) -> list[str]:
    """Return a sentence's translations, the best first. Raises ApiError if it was refused."""
    if translation["text"] is None:
        raise ApiError(422, f"the translation is not sure enough: {translation['refused']}")
    return [translation["text"], *(each["text"] for each in translation["candidates"][1:])]


def _written(
    pieces: Sequence[tuple[str, bool]], translations: Iterator[list[str]], kind: str, count: int
) -> list[str]:
    """Put translations into their places; return `count` versions of the text, the best first."""
    versions = [""] * count
    for piece, is_text in pieces:
        found = next(translations) if is_text else [piece]
        for number in range(count):
            text = found[min(number, len(found) - 1)]
            if is_text:
                text = html.escape(text, quote=False) if kind == "html" else text
                before, after = len(piece) - len(piece.lstrip()), len(piece.rstrip())
                text = piece[:before] + text + piece[after:]
            versions[number] += text
    return versions


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a body, as JSON or a form."""
    content = {"schema": model.model_json_schema()}
    kinds = ("application/json", "application/x-www-form-urlencoded")
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, content)}}


def _json(content: Any) -> Response:
    return Response(json.dumps(content, ensure_ascii=False), media_type="application/json")


@cache
def _names() -> dict[str, str]:
    """Return the English names of languages by their codes; read in a tenth of a second."""
    from langcodes.registry_parser import parse_registry

    languages = (entry for entry in parse_registry() if entry.get("Type") == "language")
    return {entry["Subtag"]: entry["Description"][0] for entry in languages}
