"""The HTTP interface over real models in one process: what it answers, and how it refuses."""

import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seqvis.collection.collection import Collection
from seqvis.decoding.beam import DecodingSettings
from seqvis.samples.questions import generate_pairs
from seqvis.search.engine import SearchEngine
from seqvis.translation.translator import Translator
from serve.common.keys import KeyHolder, Keys, sha256_of
from tests.support.searching import World, draw
from tests.support.serving import Served, served

TEXTS = [pair[0] for pair in generate_pairs(12, seed=31)]


@pytest.fixture(scope="module")
def collection(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.copy_collection(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def both(translator: Translator, collection: Path) -> Iterator[Served]:
    with served(translator.artifact.location.uri, collection) as running:
        yield running


def wait_until(true: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def error_of(response: Any, status: int, code: str) -> dict[str, Any]:
    """The error in an answer, checked for its form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return error


# Translation


def test_texts_are_translated_as_offline(both: Served, translator: Translator) -> None:
    body = {"text": TEXTS, "beam": 3, "n_best": 2}
    answer = both.client.post("/v1/translate", json=body).json()
    expected = translator.translate(TEXTS, DecodingSettings(beam=3, n_best=2))
    assert answer["model"] == "default"
    assert [translation["text"] for translation in answer["translations"]] == [
        translation.text for translation in expected
    ]
    for translation, offline in zip(answer["translations"], expected, strict=True):
        scores = [candidate["score"] for candidate in translation["candidates"]]
        assert scores == pytest.approx([c.score for c in offline.alternatives], abs=1e-3)


def test_attention_comes_if_asked_for(both: Served) -> None:
    body = {"text": TEXTS[0]}
    assert (
        both.client.post("/v1/translate", json=body).json()["translations"][0]["candidates"][0][
            "attention"
        ]
        is None
    )
    answer = both.client.post("/v1/translate", json=body | {"attention": True}).json()
    translation = answer["translations"][0]
    weights = translation["candidates"][0]["attention"]
    assert len(weights) >= len(translation["candidates"][0]["tokens"])
    assert all(len(row) == len(translation["source_tokens"]) + 1 for row in weights)
    assert sum(weights[0]) == pytest.approx(1.0, abs=0.02)


def test_a_stream_gives_each_translation_as_it_ends(both: Served) -> None:
    body = {"text": [*TEXTS, ""], "stream": True, "partial": True}
    with both.client.stream("POST", "/v1/translate", json=body) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[-1] == {"done": True, "count": len(TEXTS) + 1, "model": "default"}
    whole = {line["index"]: line["translation"]["text"] for line in lines if "translation" in line}
    plain = both.client.post("/v1/translate", json={"text": [*TEXTS, ""]}).json()["translations"]
    assert [whole[index] for index in sorted(whole)] == [
        translation["text"] for translation in plain
    ]
    grown = [line["partial"] for line in lines if line.get("index") == 0 and "partial" in line]
    assert grown
    assert grown[-1] == whole[0]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "text"),
        ({"text": 5}, "text"),
        ({"text": "Où ?", "bean": 3}, "bean"),
        ({"text": "Où ?", "n_best": 2}, "n_best"),
        ({"text": "Où ?", "beam": 64}, "beam"),
        ({"text": "Où ?", "partial": True}, "stream"),
        ({"text": "x" * 3000}, "characters"),
        ({"text": ["x"] * 200}, "at most"),
        ({"text": "Où ?", "length_penalty": "much"}, "length_penalty"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_words(
    both: Served, body: dict[str, Any], problem: str
) -> None:
    error = error_of(both.client.post("/v1/translate", json=body), 422, "invalid")
    assert problem in error["message"]


def test_bodies_that_are_no_json_are_refused(both: Served) -> None:
    for content in (b"{", b"\xff\xfe", b"[1,", b'{"text": NaN}', b"[" * 10000):
        answer = both.client.post(
            "/v1/translate", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["message"]


def test_a_model_that_is_not_there_is_named(both: Served) -> None:
    answer = both.client.post("/v1/translate", json={"text": "Où ?", "model": "june"})
    assert "default" in error_of(answer, 404, "not_found")["message"]


# Search


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

    wait_until(lambda: first()["id"] == name, 1.0)
    assert first()["metadata"]["name"] == "a blue one"
    assert first()["metadata"]["by"] == "me"
    assert both.client.get(added.json()["image"]).status_code == 200
    again = both.client.post("/v1/images", files=file, data=form).json()["id"]
    assert again == name, "the same picture has the same id, so adding it twice is as good as once"
    gone = both.client.delete(added.json()["image"])
    assert gone.json() == {"id": name, "deleted": True}
    wait_until(lambda: first()["id"] != name, 1.0)
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


# What every answer has in common


def test_a_request_keeps_its_id_or_gets_one(both: Served) -> None:
    mine = both.client.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert mine.headers["x-request-id"] == "mine-1"
    other = both.client.get("/v1/models", headers={"x-request-id": "x" * 200 + '"\\'})
    assert 8 <= len(other.headers["x-request-id"]) <= 64
    for header in ("content-security-policy", "x-content-type-options"):
        assert header in other.headers


def test_too_large_a_body_is_refused_before_it_is_read(both: Served) -> None:
    big = {"file": ("a.png", b"x" * (13 << 20), "image/png")}
    error_of(both.client.post("/v1/search/image", files=big), 413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(14):
            yield b"x" * (1 << 20)

    error_of(both.client.post("/v1/translate", content=endless()), 413, "too_large")


def test_unknown_paths_and_methods_have_the_one_form(both: Served) -> None:
    error_of(both.client.get("/v1/nothing"), 404, "not_found")
    error_of(both.client.get("/v1/translate"), 405, "method_not_allowed")


def test_what_was_not_foreseen_says_nothing_of_the_inside(
    both: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret: /etc/passwd")

    monkeypatch.setattr("serve.gateway.pictures.search", broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(both.client._transport, "raise_server_exceptions", False)
        answer = both.client.post("/v1/search/text", json={"query": "dog"})
    error_of(answer, 500, "internal")
    assert "secret" not in answer.text


def test_it_says_whether_it_is_ready(both: Served) -> None:
    assert both.client.get("/healthz").status_code == 200
    ready = both.client.get("/readyz")
    assert ready.json() == {"ready": True, "parts": {"translator": True, "search": True}}


def test_requests_are_counted_by_route_and_reason(both: Served) -> None:
    both.seen.clear()
    both.client.post("/v1/search/text", json={"query": "baot"})
    both.client.get("/v1/images/none/at/all.png")
    assert [(request.route, request.status, request.reject) for request in both.seen] == [
        ("/v1/search/text", 422, "unknown_word"),
        ("/v1/images/{id:path}", 404, "not_found"),
    ]


def test_the_documents_examples_work(both: Served) -> None:
    document = both.client.get("/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None or method == "put":
                continue
            name = body["schema"]["$ref"].rsplit("/", 1)[1]
            for example in document["components"]["schemas"][name].get("examples", []):
                answer = both.client.request(method, path, json=example)
                assert answer.status_code == 200, (path, example, answer.text)
                tried += 1
    assert tried >= 4


def test_the_documentation_and_the_page_need_nothing_from_outside(both: Served) -> None:
    for path in ("/", "/docs"):
        text = both.client.get(path).text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
    assert both.client.get("/docs/files/swagger-ui-bundle.js").status_code == 200


def test_only_what_is_there_is_served(translator: Translator) -> None:
    with served(translator.artifact.location.uri, None) as running:
        assert running.client.get("/v1/models").json()["search"] is None
        answer = running.client.post("/v1/search/text", json={"query": "dog"})
        error_of(answer, 404, "not_found")
        assert running.client.get("/readyz").json()["parts"] == {"translator": True}


# Who may ask


def test_without_keys_only_this_machine_and_no_other_site_may_ask(both: Served) -> None:
    for headers in (
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"x-forwarded-for": "203.0.113.9"},
    ):
        error_of(both.client.get("/v1/models", headers=headers), 403, "forbidden")
    for site in ("cross-site", "same-site"):  # a picture, a script or a link on another page
        answer = both.client.get("/v1/models", headers={"sec-fetch-site": site})
        error_of(answer, 403, "forbidden")
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert both.client.get("/", headers={"sec-fetch-site": site}).status_code == 200
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert both.client.get("/v1/models", headers=own).status_code == 200


def test_with_keys_each_request_needs_one_and_has_its_limit(translator: Translator) -> None:
    keys = Keys(
        (
            KeyHolder(
                name="few",
                sha256=sha256_of("few"),
                requests_per_minute=60,
                burst=3,
                scopes=("translate",),
            ),
            KeyHolder(name="boss", sha256=sha256_of("boss"), scopes=("admin",)),
        )
    )
    with served(translator.artifact.location.uri, None, keys) as running:
        client = running.client
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
            answer = client.get("/v1/models", headers=headers)
            error_of(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        for path in ("/", "/docs", "/docs/files/swagger-ui-bundle.js", "/openapi.json"):
            assert client.get(path).status_code == 200  # in a browser, which has no key yet
        few = {"authorization": "Bearer few"}
        statuses = [client.get("/v1/models", headers=few).status_code for _ in range(6)]
        assert statuses == [200, 200, 200, 429, 429, 429]
        limited = client.get("/v1/models", headers=few)
        assert int(limited.headers["retry-after"]) >= 1
        boss = {"x-api-key": "boss"}
        assert client.get("/v1/models", headers=boss).status_code == 200
        wanted = {"versions": [{"name": "a", "path": translator.artifact.location.uri}]}
        time.sleep(1.1)
        error_of(client.put("/v1/models/translator", json=wanted, headers=few), 403, "forbidden")
        changed = client.put("/v1/models/translator", json=wanted, headers=boss)
        assert changed.status_code == 200


# Models that change


def test_a_new_model_is_tried_then_switched_in_and_a_bad_one_refused(
    translator: Translator, tmp_path: Path
) -> None:
    first = translator.artifact.location.uri
    with served(first, None, model_roots=(str(tmp_path),)) as running:
        client = running.client
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "manifest.json").write_text("{}")
        bad = {"versions": [{"name": "bad", "path": str(tmp_path / "broken")}]}
        error = error_of(client.put("/v1/models/translator", json=bad), 422, "bad_artifact")
        assert "bad" in error["message"]
        assert client.post("/v1/translate", json={"text": "Où ?"}).json()["model"] == "default"
        two = {
            "versions": [
                {"name": "june", "path": first, "share": 3},
                {"name": "july", "path": first, "share": 1},
            ]
        }
        live = client.put("/v1/models/translator", json=two).json()
        assert [version["ready"] for version in live["versions"]] == [True, True]
        names = [
            client.post("/v1/translate", json={"text": "Où ?"}).json()["model"] for _ in range(60)
        ]
        assert 30 <= names.count("june") < 60
        assert names.count("june") + names.count("july") == 60
        body = {"text": "Où ?", "model": "july"}
        assert client.post("/v1/translate", json=body).json()["model"] == "july"


def test_several_models_are_switched_in_as_an_ensemble(
    translator: Translator, tmp_path: Path
) -> None:
    first = translator.artifact.location.uri
    other = shutil.copytree(translator.artifact.location.path, tmp_path / "other")
    together = {"versions": [{"name": "both", "path": [first, str(other)]}]}
    body = {"text": "Où est le chat ?", "beam": 2}
    with served(first, None) as running:
        client = running.client
        assert client.put("/v1/models/translator", json=together).status_code == 403
    with served([first, str(other)], None, model_roots=(str(tmp_path),)) as running:
        client = running.client
        expected = client.post("/v1/translate", json=body).json()
        assert expected["model"] == "default"
        assert client.put("/v1/models/translator", json=together).status_code == 200
        answer = client.post("/v1/translate", json=body).json()
        assert (answer["model"], answer["translations"]) == ("both", expected["translations"])
        (live,) = client.get("/v1/models").json()["translator"]["versions"]
        assert (live["path"], live["ready"]) == ([first, str(other)], True)
        alone = Translator.load(first).translate(body["text"], DecodingSettings(beam=2))
        assert answer["translations"][0]["text"] == alone.text  # of two equal models


def test_several_collections_do_not_work_together(both: Served, collection: Path) -> None:
    several = {"versions": [{"name": "two", "path": [str(collection)] * 2}]}
    refused = error_of(both.client.put("/v1/models/search", json=several), 422, "bad_artifact")
    assert "two: needs one path" in refused["message"]


@pytest.mark.parametrize(
    "versions",
    [
        [],
        [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}],
        [{"name": "a", "path": "x", "share": 0}],
        [{"name": "a b", "path": "x"}],
        [{"name": "a", "path": "x", "sahre": 1}],
    ],
)
def test_versions_that_make_no_sense_are_refused(
    both: Served, versions: list[dict[str, Any]]
) -> None:
    answer = both.client.put("/v1/models/translator", json={"versions": versions})
    error_of(answer, 422, "invalid")
