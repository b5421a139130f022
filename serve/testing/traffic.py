"""The requests that tests and benchmarks send to a server, and what they check in every answer."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests

from serve.testing.clients import GOOD, Kind, Reply, Request
from serve.testing.server import RunningServer

RETRIES = 100  # of a request that is refused with Retry-After


def translating(
    expected: Mapping[str, str],
    clients: int = 4,
    per_second: float | None = None,
    texts_each: int = 1,
    beam: int = 1,
) -> Kind:
    """Return clients that translate `texts_each` texts a request; answers must be the expected."""
    texts = list(expected)

    def done(request: Request, reply: Reply) -> None:
        if reply.status in GOOD:
            answers = json.loads(reply.body)["translations"]
            assert len(answers) == texts_each
            for answer in answers:
                assert answer["text"] == expected[answer["source"]], answer

    def request(number: int) -> Request:
        chosen = [texts[(number + place) % len(texts)] for place in range(texts_each)]
        return Request("/v1/translate", {"text": chosen, "beam": beam})

    return Kind(request, clients, per_second, RETRIES, done=done)


def searching(queries: Sequence[str], clients: int = 2, per_second: float | None = None) -> Kind:
    """Return clients that search by words; each answer must have five matches."""

    def done(request: Request, reply: Reply) -> None:
        if reply.status in GOOD:
            assert len(json.loads(reply.body)["matches"]) == 5

    def request(number: int) -> Request:
        return Request("/v1/search/text", {"query": queries[number % len(queries)], "k": 5})

    return Kind(request, clients, per_second, RETRIES, done=done)


def searching_by_picture(picture: bytes, per_second: float | None = None) -> Kind:
    """Return a client that searches by a picture."""
    request = Request("/v1/search/image", form={"file": picture, "k": "3"})
    return Kind(lambda number: request, 1, per_second, RETRIES)


@dataclass
class Changes:
    """A client that adds pictures and deletes each third again."""

    prefix: str
    picture: bytes
    acknowledged: dict[str, bool] = field(default_factory=dict)  # id: whether it should be there
    repeated_deletes: int = 0

    def kind(self, per_second: float | None = None) -> Kind:
        return Kind(self._request, 1, per_second, RETRIES, done=self._done)

    def _request(self, number: int) -> Request:
        if number % 3 == 2:
            return Request(f"/v1/images/{quote(self._name(number - 2))}", method="DELETE")
        return Request("/v1/images", form={"file": self.picture, "id": self._name(number)})

    def _name(self, number: int) -> str:
        return f"{self.prefix}/{number}"

    def _done(self, request: Request, reply: Reply) -> None:
        if request.form is not None:
            if reply.status in GOOD:
                self.acknowledged[str(request.form["id"])] = True
        elif reply.status in (200, 404):
            # 404: it was deleted, the answer was lost with a replica, and the call was repeated.
            self.repeated_deletes += reply.status == 404
            name = request.path.removeprefix("/v1/images/")
            assert name in self.acknowledged
            self.acknowledged[name] = False

    def lost(self, server: RunningServer, patience: float = 10.0) -> list[str]:
        """Return acknowledged changes that cannot be seen within `patience` seconds."""
        deadline = time.monotonic() + patience
        wrong = []
        for name, added in self.acknowledged.items():
            request = Request(f"/v1/images/{quote(name)}", method="GET")
            while (status := persist(server, request).status_code) != (200 if added else 404):
                if time.monotonic() > deadline:
                    wrong.append(f"{name}: {'added' if added else 'deleted'}, now {status}")
                    break
                time.sleep(0.1)
        return wrong


def everyday(
    expected: Mapping[str, str],
    queries: Sequence[str],
    changes: Changes,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Kind]:
    """Return clients of every part of the server.

    `rates`: requests a second of each kind; None: as fast as the answers come to a few clients.
    """
    rate = (rates or {}).get
    return {
        "translate": translating(expected, 64 if rates else 4, rate("translate")),
        "search": searching(queries, 16 if rates else 2, rate("search")),
        "picture": searching_by_picture(changes.picture, rate("picture")),
        "change": changes.kind(rate("change")),
    }


def faults(kinds: Mapping[str, Kind], changes: Changes | None = None) -> dict[str, Any]:
    """Count by kind what no client should see, and show the first few such answers."""
    seen = {name: kind.outcome.faults() for name, kind in kinds.items()}
    if changes is not None:
        seen["change"].subtract({"404": changes.repeated_deletes})
    return {
        name: {**+counts, "first": kinds[name].outcome.not_good}
        for name, counts in seen.items()
        if +counts
    }


def send(server: RunningServer, request: Request, timeout: float = 120.0) -> requests.Response:
    """Send a request once."""
    content: dict[str, Any] = {"json": request.json} if request.json is not None else {}
    if request.form is not None:
        content["files"] = {
            name: (name, value) if isinstance(value, bytes) else (None, value)
            for name, value in request.form.items()
        }
    return requests.request(
        request.method, server.address + request.path, timeout=timeout, **content
    )


def persist(server: RunningServer, request: Request, seconds: float = 120.0) -> requests.Response:
    """Send a request again after each Retry-After, until its answer is not 503."""
    deadline = time.monotonic() + seconds
    while (answer := send(server, request)).status_code == 503:
        assert time.monotonic() < deadline, f"{request.method} {request.path} is refused for long"
        time.sleep(float(answer.headers["retry-after"]))
    return answer
