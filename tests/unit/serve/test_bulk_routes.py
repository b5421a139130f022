"""Many pictures or searches in one request, and the pages of a collection, over real models."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.shards import shard_paths, split
from seqvis.search.engine import SearchEngine
from serve.common.keys import KeyHolder, Keys, sha256_of
from tests.support.searching import World, draw
from tests.support.serving import Served, error_of, served
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def sharded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "shards"
    split(world.collection, 3, folder)
    return folder


@pytest.fixture(scope="module")
def running(sharded: Path) -> Iterator[Served]:
    limits = {"images": 8, "matches": 100, "searches": 20, "image_bytes": 40_000}
    with served(None, sharded, limits=limits) as search:
        yield search


def picture(seed: int) -> tuple[str, tuple[str, bytes, str]]:
    return "file", ("a.png", draw(1, seed=seed), "image/png")


def add(running: Served, files: Sequence[Any], items: Any = None) -> Any:
    form = {} if items is None else {"items": json.dumps(items)}
    return running.client.post("/v1/images/batch", files=files, data=form)


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """All ids and metadata that are on the disk."""
    found = {}
    for path in shard_paths(folder):
        with Collection.open(path, read_only=True) as shard:
            found |= {entry.id: entry.metadata for entry in shard.scroll(10_000).entries}
    return found


def test_searches_together_find_what_each_finds_alone(running: Served, world: World) -> None:
    searches = [
        {"query": "dog - 0.5 * boat", "k": 7},
        {"id": "000003.jpg", "k": 7},
        {"query": "boat", "k": 7},
        {"query": "boat", "k": 3, "where": {"label": "n02121620"}},
        {"query": "cat", "min_score": 0.5},
    ]
    answer = running.client.post("/v1/search/batch", json={"searches": searches}).json()
    assert answer["model"] == "default"
    for search, result in zip(searches, answer["results"], strict=True):
        path = "/v1/search/like" if "id" in search else "/v1/search/text"
        alone = running.client.post(path, json=search).json()
        assert result["matches"] == alone["matches"]
        assert result["read_as"] == alone.get("read_as", "")
    with SearchEngine.open(world.collection) as engine:
        expected = [match.id for match in engine.like("000003.jpg", 7)]
    assert [match["id"] for match in answer["results"][1]["matches"]] == expected


def test_searches_alike_are_one_search_of_the_index(
    running: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    plain = Collection.search

    def search(self: Collection, vectors: Any, *arguments: Any) -> Any:
        asked.append(vectors.shape)
        return plain(self, vectors, *arguments)

    monkeypatch.setattr(Collection, "search", search)
    searches = [{"query": word, "k": 4} for word in ("boat", "dog", "cat", "apple")]
    searches += [{"query": "boat", "k": 5}]
    assert running.client.post("/v1/search/batch", json={"searches": searches}).is_success
    assert sorted(shape[0] for shape in asked) == [1, 1, 1, 4, 4, 4], "of three shards"


def test_a_search_that_cannot_be_made_does_not_keep_the_others_from_it(running: Served) -> None:
    searches = [
        {"query": "baot"},
        {"query": "dog - dog"},
        {"id": "none.jpg"},
        {"query": "boat", "where": {"hieght": 3}},
        {"query": "boat"},
    ]
    results = running.client.post("/v1/search/batch", json={"searches": searches}).json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [
        "unknown_word",
        "bad_query",
        "not_found",
        "unknown_field",
        None,
    ]
    assert "boat" in results[0]["error"]["suggestions"]
    assert results[3]["error"]["suggestions"][0] == "height"
    assert len(results[4]["matches"]) == 10


@pytest.mark.parametrize(
    ("searches", "problem"),
    [
        ([], "searches"),
        ([{"k": 3}], "search 1: give either"),
        ([{"query": "boat"}, {"query": "boat", "id": "000003.jpg"}], "search 2: give either"),
        ([{"query": "boat", "k": 60}, {"query": "dog", "k": 50}], "110; at most 100"),
        ([{"query": "boat", "k": 1}] * 21, "21 searches; at most 20"),
        ([{"query": "boat", "bean": 1}], "bean"),
        ([{"query": "boat", "where": {"a": list(range(200))}}], "where"),
    ],
)
def test_searches_out_of_bounds_are_refused_together(
    running: Served, searches: list[Any], problem: str
) -> None:
    answer = running.client.post("/v1/search/batch", json={"searches": searches})
    assert problem in error_of(answer, 422, "invalid")["message"]


def test_pictures_are_added_together_each_with_its_own_result(
    running: Served, sharded: Path
) -> None:
    files = [
        picture(501),
        ("file", ("b.png", b"no picture at all", "image/png")),
        picture(502),
        picture(503),
        ("file", ("c.png", b"x" * 50_000, "image/png")),
        picture(504),
        picture(505),
    ]
    items: list[dict[str, Any]] = [
        {"id": "batch/1", "name": "first", "metadata": {"by": "me"}},
        {"id": "batch/2"},
        {"id": "batch/../3"},
        {},
        {"id": "batch/5"},
        {"id": "batch/1"},
        {"id": "000003.jpg", "label": "n02121620"},
    ]
    answer = add(running, files, items)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(result["status"], result.get("error", {}).get("code")) for result in results] == [
        ("added", None),
        ("refused", "bad_picture"),
        ("refused", "invalid"),
        ("added", None),
        ("refused", "too_large"),
        ("refused", "invalid"),
        ("replaced", None),
    ]
    assert answer.json()["added"] == 3
    assert results[1]["error"]["reason"] == "not an image"
    assert "twice" in results[5]["error"]["message"]
    assert [result["id"] for result in results[:3]] == ["batch/1", "batch/2", "batch/../3"]
    now = stored(sharded)
    assert now["batch/1"]["name"] == "first"
    assert now["batch/1"]["by"] == "me"
    assert now["000003.jpg"]["label"] == "n02121620"
    assert results[3]["id"] in now
    assert "batch/2" not in now
    alone = running.client.post("/v1/images", files=[files[3]]).json()
    assert alone["id"] == results[3]["id"], "an id by the content, as for one picture"

    def found() -> bool:
        search = running.client.post("/v1/search/image", files=[files[0]], data={"k": "3"})
        return "batch/1" in {match["id"] for match in search.json()["matches"]}

    wait_until(found, "the change does not show", 1.0)


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([{}], "1 entries for 2 pictures"),
        ({"id": "a"}, "items"),
        ([{}, {"ids": 3}], "items.1.ids"),
        ([{}, {"label": "x" * 201}], "items.1.label"),
    ],
)
def test_a_list_that_does_not_fit_the_pictures_is_refused(
    running: Served, sharded: Path, items: Any, problem: str
) -> None:
    before = stored(sharded)
    answer = add(running, [picture(601), picture(602)], items)
    assert problem in error_of(answer, 422, "invalid")["message"]
    assert stored(sharded) == before


def test_more_pictures_than_are_allowed_are_refused(running: Served) -> None:
    answer = add(running, [picture(700 + number) for number in range(9)])
    assert "8" in error_of(answer, 400, "bad_request")["message"]
    error_of(running.client.post("/v1/images/batch", data={"items": "[]"}), 422, "invalid")


def listing(running: Served) -> dict[str, dict[str, Any]]:
    """The metadata of all pictures by id, read page by page; no page repeats another's."""
    listed: dict[str, dict[str, Any]] = {}
    after: dict[str, str] = {}
    while True:
        page = running.client.get("/v1/images", params={"limit": 20, **after}).json()
        assert not listed.keys() & {image["id"] for image in page["images"]}
        listed |= {image["id"]: image["metadata"] for image in page["images"]}
        if page["next"] is None:
            return listed
        assert len(page["images"]) == 20
        after = {"after": page["next"]}


def test_the_pages_list_the_whole_collection(running: Served, sharded: Path) -> None:
    # The index loads what tests before this one added four times a second.
    wait_until(lambda: listing(running) == stored(sharded), "a page lacks a picture", 5)
    image = running.client.get("/v1/images").json()["images"][0]
    thumbnail = running.client.get(image["image"])
    assert thumbnail.headers["content-type"] == "image/jpeg"


def test_a_page_may_be_filtered(running: Served) -> None:
    where = {"where": json.dumps({"label": "n02858304"})}
    page = running.client.get("/v1/images", params=where).json()
    text = {"where": "label = n02858304 and not width < 1"}
    assert running.client.get("/v1/images", params=text).json() == page
    assert len(page["images"]) == 12
    assert {image["metadata"]["label"] for image in page["images"]} == {"n02858304"}
    answer = running.client.get("/v1/images", params={"where": '{"lable": 1}'})
    assert error_of(answer, 422, "unknown_field")["suggestions"] == ["label"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("after=nothing", "no cursor"),
        ("limit=0", "limit"),
        ("limit=101", "at most 100"),
        ("where=[1]", "where"),
        ("id=", "id"),
    ],
)
def test_a_page_that_cannot_be_is_refused(running: Served, query: str, problem: str) -> None:
    assert problem in error_of(running.client.get(f"/v1/images?{query}"), 422, "invalid")["message"]


def test_many_count_as_many(world: World, tmp_path: Path) -> None:
    key = KeyHolder(
        name="few",
        sha256=sha256_of("few"),
        requests_per_minute=1,
        burst=12,
        scopes=("search", "write"),
    )
    as_few = {"authorization": "Bearer few"}
    with served(None, world.copy_collection(tmp_path), Keys([key])) as running:
        searches = {"searches": [{"query": "boat", "k": 1}] * 5}
        assert running.client.post("/v1/search/batch", json=searches, headers=as_few).is_success
        files = [picture(800 + number) for number in range(6)]
        answer = running.client.post("/v1/images/batch", files=files, headers=as_few)
        assert answer.json()["added"] == 6
        refused = running.client.post("/v1/search/batch", json=searches, headers=as_few)
        assert "counts as 5" in error_of(refused, 429, "rate_limited")["message"]
