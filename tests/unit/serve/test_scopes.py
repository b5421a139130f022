"""What each scope of a key allows, over the real interface."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi import APIRouter

from seqvis.translation.translator import Translator
from serve.common.keys import SCOPES, KeyHolder, Keys, KeyScope, sha256_of
from serve.gateway.access import SCOPE_OF, ScopedRoute
from tests.support.searching import World, draw
from tests.support.serving import Served, served


def holder(name: str, *scopes: KeyScope) -> KeyHolder:
    return KeyHolder(name=name, sha256=sha256_of(name), scopes=scopes)


def as_key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


@pytest.fixture(scope="module")
def running(
    translator: Translator, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server with one key for each scope, by the scope's name, and an ordinary one."""
    collection = world.copy_collection(tmp_path_factory.mktemp("scoped"))
    keys = Keys(
        [holder("ordinary", "translate", "search"), *(holder(scope, scope) for scope in SCOPES)]
    )
    with served(translator.artifact.location.uri, collection, keys) as both:
        yield both


def operations(running: Served) -> list[tuple[str, str]]:
    """Methods and paths of the OpenAPI document."""
    paths = running.client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_every_operation_of_the_document_is_in_the_table(running: Served) -> None:
    listed = {name.replace("{id:path}", "{id}") for name in SCOPE_OF}
    documented = {f"{method} {path}" for method, path in operations(running)}
    assert documented
    assert documented == listed - {"GET /healthz", "GET /readyz"}
    needed = {scope for scope in SCOPE_OF.values() if scope}
    assert needed == set(SCOPES) == set(get_args(KeyScope))


def test_a_route_that_is_not_in_the_table_cannot_be_built() -> None:
    router = APIRouter(route_class=ScopedRoute)
    with pytest.raises(KeyError, match="GET /v1/forgotten"):
        router.add_api_route("/v1/forgotten", lambda: None)


def test_every_operation_refuses_the_keys_that_lack_its_scope_and_no_other(
    running: Served,
) -> None:
    for method, path in operations(running):
        needed = SCOPE_OF.get(f"{method} {path}", SCOPE_OF.get(f"{method} {path[:-1]}:path}}"))
        where = path.replace("{id}", "none").replace("{application}", "none")
        for scope in SCOPES:
            answer = running.client.request(method, where, headers=as_key(scope))
            refused = answer.status_code == 403
            assert refused == (needed not in (None, scope)), (method, path, scope, answer.text)


def test_the_refusal_names_the_scope_and_what_the_operator_adds(running: Served) -> None:
    error = error_of(running.client.delete("/v1/images?id=000003.jpg", headers=as_key("ordinary")))
    assert error["scope"] == "write"
    assert "lacks the scope write" in error["message"]
    assert "scopes: [translate, search, write]" in error["message"]


def test_an_ordinary_key_neither_deletes_nor_replaces_nor_adds_a_picture(running: Served) -> None:
    shown = running.client.get("/v1/images?id=000003.jpg", headers=as_key("ordinary"))
    assert shown.status_code == 200
    file = {"file": ("a.png", draw(1, seed=77), "image/png")}
    for form in ({"id": "000003.jpg"}, {"id": "new.jpg"}, {}):
        answer = running.client.post(
            "/v1/images", files=file, data=form, headers=as_key("ordinary")
        )
        assert error_of(answer)["scope"] == "write"
    for where in ("/v1/images?id=000003.jpg", "/v1/images/000003.jpg", "/v1/images//000003.jpg"):
        answer = running.client.delete(where, headers=as_key("ordinary"))
        assert error_of(answer)["scope"] == "write"
    again = running.client.get("/v1/images?id=000003.jpg", headers=as_key("ordinary"))
    assert again.content == shown.content


def test_only_an_admin_learns_where_the_models_are(running: Served, translator: Translator) -> None:
    where = str(Path(translator.artifact.location.path).parent)
    shown = running.client.get("/v1/models", headers=as_key("ordinary"))
    assert where not in shown.text
    for application in shown.json().values():
        assert [version["name"] for version in application["versions"]] == ["default"]
        assert application["versions"][0]["about"]
    assert where in running.client.get("/v1/models", headers=as_key("admin")).text


def test_a_refused_upload_is_not_parsed(running: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: Any) -> None:
        raise AssertionError("the body was parsed")

    monkeypatch.setattr("starlette.requests.Request.form", parse)
    answer = running.client.post(
        "/v1/images", files={"file": io.BytesIO(b"x" * 100_000)}, headers=as_key("ordinary")
    )
    assert error_of(answer)["scope"] == "write"


def test_a_key_that_may_only_write_adds_and_deletes_but_does_not_search(running: Served) -> None:
    file = {"file": ("a.png", draw(1, seed=78), "image/png")}
    own = as_key("write")
    added = running.client.post("/v1/images", files=file, data={"id": "w.jpg"}, headers=own)
    assert added.status_code == 201
    assert running.client.delete("/v1/images?id=w.jpg", headers=own).status_code == 200
    answer = running.client.post("/v1/search/text", json={"query": "dog"}, headers=own)
    assert error_of(answer)["scope"] == "search"


def test_without_keys_everything_is_allowed(translator: Translator, tmp_path: Path) -> None:
    path = translator.artifact.location.uri
    with served(path, None) as running:
        wanted = {"versions": [{"name": "a", "path": path}]}
        assert running.client.put("/v1/models/translator", json=wanted).status_code == 200


def error_of(response: Any) -> dict[str, Any]:
    """The error of a refusal for lack of a scope."""
    assert response.status_code == 403, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == "forbidden"
    return error
