"""Search over HTTP, by real models in one process; pictures that are added and deleted."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seqvis.collection.collection import Collection
from seqvis.search.engine import SearchEngine
from tests.support.searching import draw
from tests.support.serving import Served, error_of
from tests.support.waiting import wait_until


def test_words_find_what_the_engine_finds(both: Served, collection: Path) -> None:
    body = {"query": "dog - 0.5 * boat", "k": 7}
    answer = both.client.post("/v1/search/text", json=body).json()
    with SearchEngine.open(collection) as engine:
        expected = engine.text("dog - 0.5 * boat", 7)
    assert [match["id"] for match in answer["matches"]] == [match.id for match in expected]
    thumbnail = both.client.get(answer["matches"][0]["image"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).format == "JPEG"
    again = both.client.get(
        answer["matches"][0]["image"], headers={"if-none-match": thumbnail.headers["etag"]}
    )
    assert again.status_code == 304


def test_the_answer_says_how_words_were_read(both: Served) -> None:
    body = {"query": "a photo of a boat, no dog", "k": 3}
    answer = both.client.post("/v1/search/text", json=body).json()
    assert answer["read_as"] == "boat - 0.5 * dog"
    again = both.client.post("/v1/search/text", json={**body, "query": answer["read_as"]}).json()
    assert again["matches"] == answer["matches"]


def test_an_unknown_word_suggests_others(both: Served) -> None:
    answer = both.client.post("/v1/search/text", json={"query": "baot"})
    error = error_of(answer, 422, "unknown_word")
    assert error["word"] == "baot"
    assert "boat" in error["suggestions"]


def test_an_unknown_field_of_a_filter_is_named_with_those_that_there_are(both: Served) -> None:
    where = {"name": "boat", "hieght": 8}
    file = {"file": ("a.png", draw(1, seed=7), "image/png")}
    for path, arguments in (
        ("/v1/search/text", {"json": {"query": "boat", "where": where}}),
        ("/v1/search/like", {"json": {"id": "000003.jpg", "where": where}}),
        ("/v1/search/image", {"files": file, "data": {"where": json.dumps(where)}}),
    ):
        error = error_of(both.client.post(path, **arguments), 422, "unknown_field")  # type: ignore[arg-type]
        assert error["field"] == "hieght"
        assert error["suggestions"][0] == "height"
        assert {"label", "name", "path", "width", "height"} <= set(error["fields"])


def test_a_filter_may_be_a_text(both: Served) -> None:
    file = {"file": ("a.png", draw(1, seed=7), "image/png")}

    def ids(where: Any) -> list[set[str]]:
        form = {"where": where if isinstance(where, str) else json.dumps(where), "k": "99"}
        answers = [
            both.client.post("/v1/search/text", json={"query": "cat", "k": 99, "where": where}),
            both.client.post("/v1/search/image", files=file, data=form),
        ]
        return [{match["id"] for match in answer.json()["matches"]} for answer in answers]

    every = ids("label exists")
    assert ids("name = boat") == ids({"name": "boat"}) != every
    assert ids("not (name = boat and width >= 8)") == [
        some - boats for some, boats in zip(every, ids({"name": "boat"}), strict=True)
    ]
    answer = both.client.post("/v1/search/text", json={"query": "cat", "where": "name = fire boat"})
    error = error_of(answer, 422, "bad_filter")
    assert error["position"] == 12
    assert error["expected"].startswith("`and`, `or` or the end")
    answer = both.client.post("/v1/search/text", json={"query": "cat", "where": "hieght missing"})
    assert error_of(answer, 422, "unknown_field")["suggestions"] == ["height"]


@pytest.mark.parametrize("field", ["", "a" * 5000, "label\n"])
def test_a_field_of_odd_text_is_unknown_too(both: Served, field: str) -> None:
    file = {"file": ("a.png", draw(1, seed=7), "image/png")}
    form = {"where": json.dumps({field: 1})}
    answer = both.client.post("/v1/search/image", files=file, data=form)
    assert error_of(answer, 422, "unknown_field")["field"] == field


@pytest.mark.parametrize("query", ["", "boat +", "dog - dog", '"dog', "x" * 1001])
def test_queries_that_cannot_be_read_are_refused(both: Served, query: str) -> None:
    answer = both.client.post("/v1/search/text", json={"query": query})
    assert answer.json()["error"]["code"] in ("bad_query", "invalid")
    assert answer.status_code == 422


def test_filters_and_the_cut_off_hold(both: Served) -> None:
    body = {"query": "cat", "k": 50, "where": {"label": "n02858304"}}
    matches = both.client.post("/v1/search/text", json=body).json()["matches"]
    assert {match["metadata"]["label"] for match in matches} == {"n02858304"}
    body = {"query": "cat", "k": 50, "min_score": 0.5}
    matches = both.client.post("/v1/search/text", json=body).json()["matches"]
    assert all(match["score"] >= 0.5 for match in matches)


def test_a_picture_finds_its_like_and_is_named(both: Served, collection: Path) -> None:
    with SearchEngine.open(collection) as engine:
        expected = engine.image(draw(2, seed=999), 8)
        words = engine.classify(draw(2, seed=999), 3, "labels")
    file = {"file": ("a.png", draw(2, seed=999), "image/png")}
    answer = both.client.post("/v1/search/image", files=file, data={"k": "8"}).json()
    assert [match["id"] for match in answer["matches"]] == [match.id for match in expected]
    form = {"k": "3", "candidates": "labels"}
    named = both.client.post("/v1/classify", files=file, data=form).json()["words"]
    assert [word["word"] for word in named] == [word.name for word in words]


def test_a_stored_picture_finds_its_like_without_itself(both: Served, collection: Path) -> None:
    with SearchEngine.open(collection) as engine:
        expected = engine.like("000003.jpg", 5)
    body = {"id": "000003.jpg", "k": 5}
    answer = both.client.post("/v1/search/like", json=body).json()
    assert [match["id"] for match in answer["matches"]] == [match.id for match in expected]
    error_of(both.client.post("/v1/search/like", json={"id": "none"}), 404, "not_found")
    named = both.client.post("/v1/classify", data={"id": "000003.jpg", "k": "2"}).json()
    assert len(named["words"]) == 2


def test_pictures_are_added_and_deleted_at_once(both: Served, collection: Path) -> None:
    file = {"file": ("a.png", draw(1, seed=4242), "image/png")}
    form = {"name": "a blue one", "metadata": json.dumps({"by": "me"})}
    before = both.client.get("/v1/models").json()["search"]["versions"][0]["about"]["items"]
    added = both.client.post("/v1/images", files=file, data=form)
    assert added.status_code == 201
    name = added.json()["id"]
    with Collection.open(collection, read_only=True) as durable:
        assert name in durable

    def first() -> dict[str, Any]:
        answer = both.client.post("/v1/search/image", files=file, data={"k": "1"}).json()
        best: dict[str, Any] = answer["matches"][0]
        return best

    wait_until(lambda: first()["id"] == name, "the change does not show", 1.0)
    assert first()["metadata"]["name"] == "a blue one"
    assert first()["metadata"]["by"] == "me"
    assert both.client.get(added.json()["image"]).status_code == 200
    again = both.client.post("/v1/images", files=file, data=form).json()["id"]
    assert again == name, "the same picture has the same id, so adding it twice is as good as once"
    gone = both.client.delete(added.json()["image"])
    assert gone.json() == {"id": name, "deleted": True}
    wait_until(lambda: first()["id"] != name, "the change does not show", 1.0)
    error_of(both.client.delete(added.json()["image"]), 404, "not_found")
    error_of(both.client.get(added.json()["image"]), 404, "not_found")
    after = both.client.get("/v1/models").json()["search"]["versions"][0]["about"]["items"]
    assert after == before


@pytest.mark.parametrize("path", ["/v1/search/image", "/v1/images", "/v1/classify"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no picture at all", "not an image"),
        (draw(0, 1)[:200], "truncated or damaged"),
    ],
)
def test_hostile_files_are_refused_with_the_reason(
    both: Served, path: str, content: bytes, reason: str
) -> None:
    answer = both.client.post(path, files={"file": ("a.png", content, "image/png")})
    assert error_of(answer, 422, "bad_picture")["reason"] == reason


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"k": "0"}, "k"),
        ({"k": "many"}, "k"),
        ({"min_score": "nan"}, "min_score"),
        ({"where": "[1]"}, "where"),
        ({"where": "{"}, "where"),
    ],
)
def test_forms_that_make_no_sense_are_refused(
    both: Served, form: dict[str, str], problem: str
) -> None:
    file = {"file": ("a.png", draw(2, seed=1), "image/png")}
    answer = both.client.post("/v1/search/image", files=file, data=form)
    assert problem in error_of(answer, 422, "invalid")["message"]


def test_nothing_is_fetched_for_a_client(both: Served) -> None:
    """There is no field for an address of a picture."""
    body = {"file": "http://127.0.0.1:1/a.png"}
    assert both.client.post("/v1/search/image", data=body).status_code == 422
    document = both.client.get("/openapi.json").text
    assert '"url"' not in document
