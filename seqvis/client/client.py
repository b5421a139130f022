"""A client of a running server: translations, searches, pictures and models over HTTP.

client = Client("http://127.0.0.1:8000")
print(client.translate("Où est le chat ?"))
for match in client.search_text("dogs without cats").matches:
    print(match.id, match.score)
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Literal, Self, TypedDict, Unpack, overload

from seqvis.client.connection import Connection
from seqvis.client.errors import (
    ClientError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    error_inside,
)
from seqvis.client.results import (
    Added,
    Application,
    Content,
    Found,
    NewPicture,
    Picture,
    Search,
    Streamed,
    Translation,
    Word,
)
from seqvis.client.uploads import Read, bytes_of, grouped

Where = str | Mapping[str, Any]
"""A filter, as the interface takes it."""


class TranslateOptions(TypedDict, total=False):
    """How to translate; what is left out is as POST /v1/translate has it by default."""

    beam: int
    n_best: int
    length_penalty: float
    attention: bool
    min_confidence: float
    model: str


class Client:
    """A server of `serve.app` or of a cluster. Threads may share a client.

    Methods raise `ClientError` (errors.py). What was refused for the moment is sent again after the
    time that the server asks for, and so is what met a broken connection (connection.py).
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        longest_wait: float = 60.0,
    ):
        """
        Args:
            url: such as http://127.0.0.1:8000.
            key: an API key, if the server has any.
            timeout: seconds without a byte of an answer after which it is given up; the server
                gives up after 30.
            retries: how often a request is sent again.
            longest_wait: most seconds to wait where the server says when to come back; if it says
                more, the error is raised at once.
        """
        self._server = Connection(url, key, timeout, retries, longest_wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @overload
    def translate(  # type: ignore[overload-overlap]
        self, text: str, **options: Unpack[TranslateOptions]
    ) -> Translation: ...
    @overload
    def translate(
        self, text: Sequence[str], **options: Unpack[TranslateOptions]
    ) -> list[Translation]: ...
    def translate(self, text: str | Sequence[str], **options: Any) -> Any:
        """Translate a sentence, or each of a list."""
        texts = text if isinstance(text, str) else list(text)
        answer = self._server.json("POST", "/v1/translate", body={"text": texts, **options})
        translations = [Translation.read(each) for each in answer["translations"]]
        return translations[0] if isinstance(text, str) else translations

    def stream(
        self, texts: Iterable[str], partial: bool = False, **options: Unpack[TranslateOptions]
    ) -> Iterator[Streamed]:
        """Translate many sentences, and yield each as soon as it ends, with `index` its place.

        `partial`: also what is written so far. A stream that breaks off raises UnreachableError
        and is not asked for again.
        """
        body = {"text": list(texts), "stream": True, "partial": partial, **options}
        for line in self._server.lines("POST", "/v1/translate", body=body):
            if "done" in line:
                return
            translation = line.get("translation")
            yield Streamed(
                line["index"],
                translation and Translation.read(translation),
                line.get("partial"),
            )
        raise UnreachableError("the stream broke off; ask again")

    def search_text(
        self,
        query: str,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
        model: str | None = None,
    ) -> Found:
        """Find pictures near words, or near a signed sum of words."""
        body = {"query": query, "k": k, "min_score": min_score, "where": where, "model": model}
        return Found.read(self._server.json("POST", "/v1/search/text", body=body))

    def search_like(
        self,
        id: str,  # noqa: A002
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
        model: str | None = None,
    ) -> Found:
        """Find pictures near a stored one."""
        body = {"id": id, "k": k, "min_score": min_score, "where": where, "model": model}
        return Found.read(self._server.json("POST", "/v1/search/like", body=body))

    def search_image(
        self,
        picture: Content,
        k: int = 10,
        min_score: float | None = None,
        where: Where | None = None,
        model: str | None = None,
    ) -> Found:
        """Find pictures near one that is not stored."""
        form = [
            ("file", bytes_of(picture)),
            ("k", str(k)),
            ("min_score", None if min_score is None else str(min_score)),
            ("where", _text_of(where)),
            ("model", model),
        ]
        return Found.read(self._server.json("POST", "/v1/search/image", form=form))

    def search_many(
        self, searches: Iterable[Search], model: str | None = None
    ) -> list[Found | ClientError]:
        """Search several times in one request; a search that cannot be made has its error."""
        given = [
            {name: value for name, value in asdict(search).items() if value is not None}
            for search in searches
        ]
        answer = self._server.json(
            "POST", "/v1/search/batch", body={"searches": given, "model": model}
        )
        return [
            error_inside(result["error"])
            if "error" in result
            else Found.read({"model": answer["model"], **result})
            for result in answer["results"]
        ]

    def classify(
        self,
        picture: Content | None = None,
        *,
        id: str | None = None,  # noqa: A002
        k: int = 10,
        candidates: Literal["labels", "classes", "wordnet"] = "classes",
        model: str | None = None,
    ) -> list[Word]:
        """Name a picture, or a stored one by its id, best first."""
        form = [
            ("file", None if picture is None else bytes_of(picture)),
            ("id", id),
            ("k", str(k)),
            ("candidates", candidates),
            ("model", model),
        ]
        answer = self._server.json("POST", "/v1/classify", form=form)
        return [Word.read(each) for each in answer["words"]]

    def add(
        self,
        picture: Content,
        id: str | None = None,  # noqa: A002
        label: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Add a picture, or replace the one of this id. Return its id, made of its content if none.

        It is on the server's disk then; searches find it within a second.
        """
        form = [
            ("file", bytes_of(picture)),
            ("id", id),
            ("label", label),
            ("name", name),
            ("metadata", None if metadata is None else json.dumps(metadata)),
        ]
        added: str = self._server.json("POST", "/v1/images", form=form)["id"]
        return added

    def add_many(
        self, pictures: Iterable[NewPicture], together: int = 32, in_flight: int = 4
    ) -> Iterator[Added]:
        """Add any number of pictures, and yield what became of each, in their order.

        `in_flight` requests of `together` pictures, or of 8 MiB, are under way at once; the
        iterable is read no further ahead. What is wrong with a picture is said in its result. An
        error of a whole request is raised after the results before it: to add the same pictures
        again does no harm.
        """
        with ThreadPoolExecutor(in_flight, thread_name_prefix="add") as threads:
            waiting: deque[Future[list[Added]]] = deque()
            try:
                for group in grouped(pictures, together):
                    waiting.append(threads.submit(self._add_group, group))
                    if len(waiting) >= in_flight:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for request in waiting:
                    request.cancel()

    def delete(self, id: str) -> bool:  # noqa: A002
        """Delete a picture; return whether there was one."""
        try:
            self._server.ask("DELETE", "/v1/images", query={"id": id})
        except NotFoundError as error:
            if error.code != "not_found":
                raise
            return False
        return True

    def thumbnail(self, id: str) -> bytes:  # noqa: A002
        """Return the JPEG of a stored picture, its longer side at most 128 pixels."""
        return self._server.ask("GET", "/v1/images", query={"id": id}).data

    def scroll(
        self, where: Where | None = None, limit: int = 100, model: str | None = None
    ) -> Iterator[Picture]:
        """Yield all stored pictures, reading `limit` at a time.

        A picture that is there all the while comes exactly once, whatever is added or deleted
        meanwhile.
        """
        after: str | None = None
        while True:
            query = {"after": after, "limit": limit, "where": _text_of(where), "model": model}
            page = self._server.json("GET", "/v1/images", query=query)
            yield from map(Picture.read, page["images"])
            after = page["next"]
            if after is None:
                return

    def models(self) -> dict[str, Application]:
        """Return the live versions of each application that is served."""
        answer = self._server.json("GET", "/v1/models")
        return {name: Application.read(live) for name, live in answer.items() if live is not None}

    def change_models(
        self, application: Literal["translator", "search"], versions: Sequence[Mapping[str, Any]]
    ) -> Application:
        """Make these versions live, each a name and a path; the key needs the scope `admin`."""
        body = {"versions": list(versions)}
        return Application.read(self._server.json("PUT", f"/v1/models/{application}", body=body))

    def ready(self) -> bool:
        """Tell whether the server answers, and all its parts do."""
        try:
            self._server.ask("GET", "/readyz", retries=0)
        except ClientError:
            return False
        return True

    def _add_group(self, group: Sequence[Read]) -> list[Added]:
        sent = [(picture, read) for picture, read in group if isinstance(read, bytes)]
        results = iter(self._send_group(sent)) if sent else iter(())
        return [
            next(results)
            if isinstance(read, bytes)
            else Added(picture.id, "refused", {"code": "unreadable", "message": str(read)})
            for picture, read in group
        ]

    def _send_group(self, pictures: Sequence[tuple[NewPicture, bytes]]) -> list[Added]:
        items = [
            {
                "id": picture.id,
                "label": picture.label,
                "name": picture.name,
                "metadata": picture.metadata and dict(picture.metadata),
            }
            for picture, _ in pictures
        ]
        form = [("items", json.dumps(items)), *(("file", content) for _, content in pictures)]
        try:
            answer = self._server.json("POST", "/v1/images/batch", form=form)
        except RefusedError as error:
            if len(pictures) > 1:
                raise
            problem = error.problem or {"code": "refused", "message": str(error)}
            return [Added(pictures[0][0].id, "refused", problem)]
        return [Added.read(result) for result in answer["results"]]


def _text_of(where: Where | None) -> str | None:
    return where if where is None or isinstance(where, str) else json.dumps(where)
