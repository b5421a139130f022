"""What clients ask of the server while it is broken, and what is checked of every answer."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests

from serve.testing.clients import GOOD, Kind, Reply, Request
from serve.testing.server import RunningServer

PATIENCE = 100  # times that a client comes again, as it is told to


def translating(
    expected: Mapping[str, str], clients: int = 4, per_second: float | None = None
) -> Kind:
    """Clients that translate the texts, one at a time; each answer must be the expected one."""
    texts = list(expected)

    def done(request: Request, reply: Reply) -> None:
        if reply.status in GOOD:
            (one,) = json.loads(reply.body)["translations"]
            assert one["text"] == expected[one["source"]], one

    return Kind(
        lambda number: Request("/v1/translate", {"text": texts[number % len(texts)]}),
        clients,
        per_second,
        retries=PATIENCE,
        done=done,
    )


def searching(queries: Sequence[str], clients: int = 2, per_second: float | None = None) -> Kind:
    """Clients that search by words."""

    def done(request: Request, reply: Reply) -> None:
        if reply.status in GOOD:
            assert len(json.loads(reply.body)["matches"]) == 5

    return Kind(
        lambda number: Request(
            "/v1/search/text", {"query": queries[number % len(queries)], "k": 5}
        ),
        clients,
        per_second,
        retries=PATIENCE,
        done=done,
    )


def searching_by_picture(picture: bytes, per_second: float | None = None) -> Kind:
    """A client that searches by a picture."""
    asked = Request("/v1/search/image", form={"file": picture, "k": "3"})
    return Kind(lambda number: asked, 1, per_second, retries=PATIENCE)


@dataclass
class Changes:
    """A client that adds pictures and deletes each third again, and what it was told."""

    prefix: str
    picture: bytes
    there: dict[str, bool] = field(default_factory=dict)  # acknowledged: added, or deleted
    repeated_deletes: int = 0

    def kind(self, per_second: float | None = None) -> Kind:
        return Kind(self._request, 1, per_second, retries=PATIENCE, done=self._done)

    def _request(self, number: int) -> Request:
        if number % 3 == 2:
            return Request(f"/v1/images/{quote(self._name(number - 2))}", method="DELETE")
        return Request("/v1/images", form={"file": self.picture, "id": self._name(number)})

    def _name(self, number: int) -> str:
        return f"{self.prefix}/{number}"

    def _done(self, request: Request, reply: Reply) -> None:
        if request.form is not None:
            if reply.status in GOOD:
                self.there[str(request.form["id"])] = True
        elif reply.status in (200, 404):
            # 404: it was deleted, the answer was lost with a replica, and the call was repeated.
            self.repeated_deletes += reply.status == 404
            name = request.path.removeprefix("/v1/images/")
            assert name in self.there
            self.there[name] = False

    def lost(self, server: RunningServer, patience: float = 10.0) -> list[str]:
        """What was acknowledged and is still not so after `patience` seconds."""
        deadline = time.monotonic() + patience
        wrong = []
        for name, there in self.there.items():
            asked = Request(f"/v1/images/{quote(name)}", method="GET")
            wanted = 200 if there else 404
            while (status := persist(server, asked).status_code) != wanted:
                if time.monotonic() > deadline:
                    wrong.append(f"{name}: {'added' if there else 'deleted'}, now {status}")
                    break
                time.sleep(0.1)
        return wrong


def everyday(
    expected: Mapping[str, str],
    queries: Sequence[str],
    changes: Changes,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Kind]:
    """Clients of every part of the server.

    `rates`: requests a second of each kind; None: as fast as the answers come to a few clients.
    """
    if rates is None:
        return {
            "translate": translating(expected, 4),
            "search": searching(queries, 2),
            "picture": searching_by_picture(changes.picture),
            "change": changes.kind(),
        }
    return {
        "translate": translating(expected, 64, rates["translate"]),
        "search": searching(queries, 16, rates["search"]),
        "picture": searching_by_picture(changes.picture, rates["picture"]),
        "change": changes.kind(rates["change"]),
    }


def faults(kinds: Mapping[str, Kind], changes: Changes | None = None) -> dict[str, Any]:
    """By kind, how often what no client should see was seen, and the first few of it."""
    found = {name: kind.outcome.faults() for name, kind in kinds.items()}
    if changes is not None:
        found["change"].subtract({"404": changes.repeated_deletes})
    return {
        name: {**+seen, "first": kinds[name].outcome.not_good}
        for name, seen in found.items()
        if +seen
    }


def send(server: RunningServer, request: Request, timeout: float = 120.0) -> requests.Response:
    """Sends a request once."""
    content: dict[str, Any] = {"json": request.json} if request.json is not None else {}
    if request.form is not None:
        fields = request.form.items()
        content["files"] = {
            name: (name, value) if isinstance(value, bytes) else (None, value)
            for name, value in fields
        }
    return requests.request(
        request.method, server.address + request.path, timeout=timeout, **content
    )


def persist(server: RunningServer, request: Request, seconds: float = 120.0) -> requests.Response:
    """Sends a request until it is answered with something else than 503, for so long at most."""
    deadline = time.monotonic() + seconds
    while (answer := send(server, request)).status_code == 503:
        assert time.monotonic() < deadline, f"{request.method} {request.path} is refused for long"
        time.sleep(float(answer.headers["retry-after"]))
    return answer
