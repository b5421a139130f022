"""What all answers of the HTTP interface have in common, and who may ask."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from seqvis.translation.translator import Translator
from serve.common.keys import KeyHolder, Keys, sha256_of
from tests.support.serving import Served, error_of, served


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

    monkeypatch.setattr("serve.gateway.searching.search", broken)
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
            if body is None or method == "put" or "$ref" not in body["schema"]:
                continue
            name = body["schema"]["$ref"].rsplit("/", 1)[1]
            for example in document["components"]["schemas"][name].get("examples", []):
                answer = both.client.request(method, path, json=example)
                assert answer.status_code == 200, (path, example, answer.text)
                tried += 1
    assert tried >= 4


def test_every_model_of_the_document_has_a_name_of_its_own(both: Served) -> None:
    """FastAPI puts the module before two of one name, and so renames the one that was there."""
    schemas = both.client.get("/openapi.json").json()["components"]["schemas"]
    assert {"TranslateAnswer", "ErrorAnswer"} <= schemas.keys()
    assert [name for name in schemas if "__" in name] == []


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
