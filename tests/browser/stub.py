"""A stand-in for the server, which the page's tests drive: canned, deterministic, in one process.

In: the requests of the HTTP interface. Out: answers of its form, from a dictionary of French words
and a dozen squares of one colour. A test may order refusals (`refuse`) or a key (`key`), and reads
from `seen` what was asked for. What may surprise: a picture's meaning is its colour.
"""

import asyncio
import difflib
import io
import json
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image

from serve.common.keys import SCOPES
from serve.gateway.access import lacking
from serve.gateway.pictures import image_path

PAGE = Path(__file__).parents[2] / "serve" / "page"
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
WORDS = {"boat": (1, 0, 0), "engine": (0, 1, 0), "vegetable": (0, 0, 1), "flower": (0, 0.6, 0.8)}
PICTURES = {
    "ship": (250, 30, 20),
    "motor boat": (170, 160, 10),
    "raft": (230, 10, 90),
    "tractor": (40, 230, 60),
    "truck": (80, 220, 20),
    "carrot": (20, 30, 240),
    "leek": (60, 90, 220),
    "tulip": (10, 150, 200),
}
FRENCH = {"où": "where", "travaille": "works", "ta": "your", "sœur": "sister", "le": "the"}

Point = tuple[float, float, float]


class Stub:
    """The state that a test sets and reads. One for a session; `reset` before each test."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.pictures = {f"squares/{name}.jpg": (name, of) for name, of in PICTURES.items()}
        self.key: str | None = None
        self.scopes = SCOPES
        self.absent: set[str] = set()
        self.refusals: list[tuple[str, int, dict[str, str], dict[str, Any]]] = []
        self.seen: list[tuple[str, str]] = []
        self.added = 0
        self.given_up = 0  # translations whose reader went away
        self.min_confidence = 0.0
        self.hold = threading.Event()  # while clear, translations stop after their first words
        self.hold.set()

    def refuse(
        self, path: str, status: int, code: str, message: str, retry_after: str = ""
    ) -> None:
        """The next request to a path that begins so is answered with this error."""
        headers = {"Retry-After": retry_after} if retry_after else {}
        self.refusals.append((path, status, headers, {"code": code, "message": message}))

    def requests_of(self, method: str, path: str) -> int:
        """How many requests there were."""
        return sum(verb == method and where.startswith(path) for verb, where in self.seen)

    def nearest(self, point: Point, k: int, least: float | None, but: str = "") -> dict[str, Any]:
        scored = sorted(
            ((cosine(point, of), id_) for id_, (_, of) in self.pictures.items()), reverse=True
        )
        matches = [
            (score, id_)
            for score, id_ in scored
            if id_ != but and (least is None or score >= least)
        ]
        return {"model": "stub", "matches": [self._match(score, id_) for score, id_ in matches[:k]]}

    def _match(self, score: float, id_: str) -> dict[str, Any]:
        name = self.pictures[id_][0]
        metadata = {"name": name, "label": name, "path": id_}
        return {"id": id_, "score": score, "metadata": metadata, "image": image_path(id_)}


def cosine(first: Point, second: Point) -> float:
    return (
        sum(a * b for a, b in zip(first, second, strict=True))
        / math.hypot(*first)
        / math.hypot(*second)
    )


def jpeg(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, "JPEG", quality=95)
    return out.getvalue()


def translation(text: str, n_best: int) -> dict[str, Any]:
    """Word by word from the dictionary; the last two words change places, so lines cross."""
    words = text.split()
    source = ["_cap_", *(word.lower() for word in words)]
    target = [FRENCH.get(word, word) for word in source]
    order = list(range(len(source)))
    if len(order) > 3:
        order[-3], order[-2] = order[-2], order[-3]
    rows = [[0.01] * (len(source) + 1) for _ in order]
    for row, place in zip(rows, order, strict=True):
        row[place] = 0.9
    candidates = []
    for rank in range(n_best):
        tokens = [target[place] for place in order]
        if rank:
            tokens[-1] = "!" * rank
        spelled = " ".join(tokens[1:])
        candidates.append(
            {
                "text": spelled[:1].upper() + spelled[1:],
                "tokens": tokens,
                "score": -0.1 - rank,
                "complete": True,
                "attention": rows if rank != 1 else list(reversed(rows)),
            }
        )
    unknown = [word for word in words if word.isalpha() and word.lower() not in FRENCH]
    return {
        "source": text,
        "source_tokens": source,
        "unknown_words": unknown,
        "confidence": 0.72 / (1 + len(unknown)) ** 2,
        "refused": None,
        "text": candidates[0]["text"],
        "candidates": candidates,
    }


def build_app(stub: Stub) -> FastAPI:
    """The interface over a stub's state, and the page with a strict content security policy."""
    app = FastAPI()

    @app.middleware("http")
    async def gate(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        stub.seen.append((request.method, path))
        ordered = next((refusal for refusal in stub.refusals if path.startswith(refusal[0])), None)
        given = request.headers.get("Authorization")
        response: Response
        if path.startswith("/v1/") and stub.key and given != f"Bearer {stub.key}":
            response = failure(401, "unauthorized", "give a key")
        elif path == "/v1/images" and request.method != "GET" and "write" not in stub.scopes:
            response = failure(403, "forbidden", str(lacking("write", stub.scopes)))
        elif ordered:
            stub.refusals.remove(ordered)
            response = failure(ordered[1], headers=ordered[2], **ordered[3])
        else:
            response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        abouts = {
            "translator": {"source_language": "fr", "target_language": "en"},
            "search": {"items": len(stub.pictures), "attribution": "Squares: nobody, CC0"},
        }
        return {
            name: None if name in stub.absent else {"versions": [{"name": "stub", "about": about}]}
            for name, about in abouts.items()
        }

    @app.post("/v1/translate")
    async def translate(body: dict[str, Any]) -> StreamingResponse:
        made = translation(body["text"], body["n_best"])
        refused = made["confidence"] < stub.min_confidence

        async def lines() -> AsyncIterator[str]:
            words = [] if refused else made["text"].split()
            for count in range(1, len(words)):
                yield json.dumps({"index": 0, "partial": " ".join(words[:count])}) + "\n"
                try:
                    while count == 2 and not stub.hold.is_set():
                        await asyncio.sleep(0.02)
                except asyncio.CancelledError:
                    stub.given_up += 1
                    raise
            without = {"refused": "too unsure", "text": None, "candidates": []} if refused else {}
            yield json.dumps({"index": 0, "translation": made | without}) + "\n"
            yield json.dumps({"done": True, "count": 1, "model": "stub"}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.post("/v1/search/text", response_model=None)
    def text(body: dict[str, Any]) -> dict[str, Any] | JSONResponse:
        total = [0.0, 0.0, 0.0]
        read = body["query"].removeprefix("a photo of a ")
        for word in read.split(" + "):
            if word not in WORDS:
                near = difflib.get_close_matches(word, WORDS)
                return failure(422, "unknown_word", f"{word}: unknown", word=word, suggestions=near)
            total = [a + b for a, b in zip(total, WORDS[word], strict=True)]
        answer = stub.nearest((total[0], total[1], total[2]), body["k"], body["min_score"])
        return {**answer, "read_as": read}

    @app.post("/v1/search/like", response_model=None)
    def like(body: dict[str, Any]) -> dict[str, Any] | JSONResponse:
        if body["id"] not in stub.pictures:
            return failure(404, "not_found", f"{body['id']}: no picture has this id")
        point = stub.pictures[body["id"]][1]
        return stub.nearest(point, body["k"], body["min_score"], but=body["id"])

    @app.post("/v1/search/image", response_model=None)
    async def image(
        file: UploadFile,
        k: Annotated[int, Form()],
        min_score: Annotated[float | None, Form()] = None,
    ) -> dict[str, Any] | JSONResponse:
        try:
            return stub.nearest(colour_of(await file.read()), k, min_score)
        except OSError:
            return failure(422, "bad_picture", "the picture cannot be read: it is damaged")

    @app.post("/v1/classify", response_model=None)
    async def classify(
        k: Annotated[int, Form()],
        file: Annotated[UploadFile | None, File()] = None,
        id: Annotated[str, Form()] = "",  # noqa: A002 - the interface's name
    ) -> dict[str, Any] | JSONResponse:
        try:
            point = colour_of(await file.read()) if file else stub.pictures[id][1]
        except OSError:
            return failure(422, "bad_picture", "the picture cannot be read: it is damaged")
        scored = sorted(((cosine(point, at), word) for word, at in WORDS.items()), reverse=True)
        return {"model": "stub", "words": [{"word": word, "score": s} for s, word in scored[:k]]}

    @app.get("/v1/images")
    def thumbnail(name: Annotated[str, Query(alias="id")]) -> Response:
        if name not in stub.pictures:
            return failure(404, "not_found", f"{name}: no picture has this id")
        return Response(jpeg(stub.pictures[name][1]), media_type="image/jpeg")

    @app.post("/v1/images")
    async def add(
        file: UploadFile,
        label: Annotated[str, Form()],
        id: Annotated[str | None, Form()] = None,  # noqa: A002 - the interface's name
    ) -> JSONResponse:
        stub.added += 1
        name = id or f"added/{stub.added}.jpg"
        stub.pictures[name] = (label, colour_of(await file.read()))
        return JSONResponse({"id": name, "image": image_path(name)}, 201)

    @app.delete("/v1/images", response_model=None)
    def delete(name: Annotated[str, Query(alias="id")]) -> dict[str, Any] | JSONResponse:
        if stub.pictures.pop(name, None) is None:
            return failure(404, "not_found", f"{name}: no picture has this id")
        return {"id": name, "deleted": True}

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def colour_of(content: bytes) -> tuple[int, int, int]:
    """The colour of an encoded picture's middle. Raises OSError if it is damaged."""
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    red, green, blue = pixels[len(pixels) // 2, pixels.shape[1] // 2]
    return int(red), int(green), int(blue)


def failure(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    error = {"code": code, "message": message, "request_id": "1", **more}
    return JSONResponse({"error": error}, status, headers)
