"""Links to pictures: whatever the id, GET and DELETE of its link reach this picture alone."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import httpx
import numpy as np
import pytest
import requests
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from seqvis.collection.collection import Collection
from seqvis.collection.items import Item, check_ids
from seqvis.errors import DataError
from seqvis.search.requests import EncodedImage
from serve.common.settings import GatewaySettings, Version
from serve.common.versions import configure
from serve.gateway.clients import SearchServices
from serve.gateway.live import LiveModels
from serve.gateway.pictures import image_path
from serve.gateway.routes import build_api
from serve.proxy import Resend, haproxy
from tests.support.serving import MemoryStore, listening
from tests.unit.serve import test_haproxy

PLAIN = "b.jpg"
REFUSED = [
    "../photos/x.jpg",
    "a/../b.jpg",
    "./b.jpg",
    "..",
    ".",
    "../images/pictures/pizza.png",
    "a\\..\\b.jpg",
    "b.jpg\n",
    "b\nc.jpg",
    "\r\n\t\x00\x1b.jpg",
    "\n" * 4096,
]
ODD = [
    "...",
    "a..b/.c.jpg",
    "a//b.jpg",
    "/b.jpg",
    "b.jpg/",
    "/",
    "s3://bucket/b.jpg",
    "%2e%2e/b.jpg",
    "a%2Fb.jpg",
    "%",
    "b.jpg?k=1&id=c.jpg",
    "b.jpg#c",
    "a+b c&d;e=f.jpg",
    " b.jpg ",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "\ufffd.jpg",
    "\U0001f408\u200b\u202e.jpg",
    "\u00e9" * 2048,
]


class Pictures:
    """A collection as index and writer answer for it, and an encoder that places all alike."""

    def __init__(self, collection: Collection):
        self._collection = collection

    async def describe(self) -> dict[str, Any]:
        return {"versions": {"": {"shards": 1}}, "refused": {}}

    async def thumbnail(self, version: str, name: str) -> bytes | None:
        return self._collection.thumbnail(name)

    async def delete(self, version: str, name: str) -> bool:
        return self._collection.delete([name]) > 0

    async def encode_many(self, version: str, contents: list[bytes]) -> list[EncodedImage]:
        return [EncodedImage(np.ones(2, dtype=np.float32), 1, 1, each) for each in contents]

    async def add(self, version: str, items: list[Item]) -> list[bool]:
        replaced = [item.id in self._collection for item in items]
        self._collection.add(items)
        return replaced


def healthy(api: ASGIApp) -> ASGIApp:
    """The application with the answer that Ray gives to HAProxy's health checks."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        checked = scope["path"].startswith("/-/")
        await (Response("ok") if checked else api)(scope, receive, send)

    return answer


@dataclass
class Server:
    """A gateway of its own collection, and its addresses: direct and behind each proxy."""

    collection: Collection
    addresses: list[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = MemoryStore()
    configure(store, "search", [Version(name="default", path="here")])
    with ExitStack() as stack:
        place = tmp_path_factory.mktemp("links") / "collection"
        collection = stack.enter_context(Collection.create(place, 2))
        part: Any = Pictures(collection)
        live = LiveModels(store, None, SearchServices(part, part, lambda shard: part))
        asyncio.run(live.refresh())
        api = build_api(live, GatewaySettings(), None, lambda seen: None)
        addresses = [stack.enter_context(listening(app)) for app in (healthy(api), Resend(api))]
        if haproxy.environment():
            port = int(addresses[0].rpartition(":")[2])
            addresses.append(stack.enter_context(test_haproxy.running([port]))[0])
        yield Server(collection, addresses)


@pytest.fixture
def stored(server: Server) -> Server:
    """All ids are there; each picture's bytes are its id."""
    everything = [PLAIN, *ODD, *REFUSED]
    with pytest.MonkeyPatch.context() as before:
        before.setattr(
            "seqvis.collection.items.check_new_ids", check_ids
        )  # as earlier versions did
        server.collection.add(Item(name, np.ones(2), {}, name.encode()) for name in everything)
    return server


def by_urllib(method: str, url: str) -> Any:
    with urlopen(Request(url, method=method), timeout=60) as answer:
        return SimpleNamespace(status_code=answer.status, content=answer.read())


HTTPX = httpx.Client(timeout=60)
CLIENTS: list[Callable[[str, str], Any]] = [requests.request, HTTPX.request, by_urllib]


@pytest.mark.parametrize("number", range(3), ids=["direct", "Serve's proxy", "HAProxy"])
def test_a_link_shows_and_deletes_its_own_picture_and_no_other(stored: Server, number: int) -> None:
    if number >= len(stored.addresses):
        pytest.skip("no HAProxy for this system")
    address, ask, collection = stored.addresses[number], CLIENTS[number], stored.collection
    for name in (*ODD, *REFUSED):
        if name in ODD:
            link = upload(address, name)
            assert link.json().get("id") == name, link.text
        url = address + image_path(name)
        assert ask("GET", url).content == name.encode(), name
        before = set(collection.ids())
        assert ask("DELETE", url).status_code == 200, name
        assert before - set(collection.ids()) == {name}


def test_an_id_that_clients_rewrite_is_refused_at_every_entry(
    stored: Server, tmp_path: Path
) -> None:
    collection = stored.collection
    before = {name: collection.thumbnail(name) for name in collection.ids()}
    for name in REFUSED:
        answer = upload(stored.addresses[0], name)
        assert answer.status_code == 422, name
        assert "cannot be an id" in answer.json()["error"]["message"]
        with pytest.raises(DataError, match="cannot be an id"):
            collection.add([Item(name, np.ones(2))])
        with pytest.raises(DataError, match="cannot be an id"):
            Collection.build(tmp_path / "c", 2, [Item(name, np.ones(2))])
    assert {name: collection.thumbnail(name) for name in collection.ids()} == before


def upload(address: str, name: str) -> requests.Response:
    """Sends a picture to be stored by this id."""
    return requests.post(
        f"{address}/v1/images", files={"file": name.encode()}, data={"id": name}, timeout=60
    )


def test_in_the_path_a_line_feed_is_part_of_the_id(stored: Server) -> None:
    address = stored.addresses[0]
    for name, escaped in (("b.jpg\n", "b.jpg%0A"), ("b\nc.jpg", "b%0Ac.jpg")):
        assert requests.get(f"{address}/v1/images/{escaped}", timeout=60).content == name.encode()
        assert requests.delete(f"{address}/v1/images/{escaped}", timeout=60).json()["id"] == name
        assert name not in stored.collection
    assert requests.delete(f"{address}/v1/images/b.jpg%0A%0A", timeout=60).status_code == 404
    assert PLAIN in stored.collection


@pytest.mark.parametrize("escaped", ["%ff.jpg", "%ed%a0%80.jpg", "%c3", "%ef%bf%bd%fe.jpg"])
def test_an_id_that_is_not_utf8_is_refused_and_means_no_other(stored: Server, escaped: str) -> None:
    address = stored.addresses[0]
    collection = stored.collection
    collection.add([Item("\ufffd" * count + ".jpg", np.ones(2)) for count in (2, 3)])
    before = set(collection.ids())
    for place in (f"?id={escaped}", f"/{escaped}"):
        answer = requests.delete(f"{address}/v1/images{place}", timeout=60)
        assert answer.status_code == 422
        assert "UTF-8" in answer.json()["error"]["message"]
    assert set(collection.ids()) == before


@pytest.mark.parametrize("place", ["", "?id=", "/", f"?id={'a' * 4097}", "?ids=b.jpg"])
def test_what_is_no_id_is_refused(stored: Server, place: str) -> None:
    lists = place in ("", "?ids=b.jpg")  # a GET without an id
    for ask in (requests.delete,) if lists else (requests.get, requests.delete):
        answer = ask(f"{stored.addresses[0]}/v1/images{place}", timeout=60)
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "invalid"


def test_a_collection_with_odd_ids_is_opened_and_emptied(tmp_path: Path) -> None:
    everything = [*ODD, *REFUSED]
    with Collection.create(tmp_path / "c", 2) as collection:
        with pytest.MonkeyPatch.context() as before:
            before.setattr("seqvis.collection.items.check_new_ids", check_ids)
            collection.add(Item(name, np.ones(2)) for name in everything)
        collection.compact()
    with Collection.open(tmp_path / "c") as collection:
        assert set(collection.ids()) == set(everything)
        assert collection.delete(everything) == len(everything)
        assert len(collection) == 0
