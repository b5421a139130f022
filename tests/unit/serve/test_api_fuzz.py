"""The HTTP interface asked at random, from its own OpenAPI document: it answers as it says there.

Half of the requests fit the document, half do not. They are the same each time, so that a failure
is found again; its message has the request as a curl command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import requests

from seqvis.translation.translator import Translator
from tests.support.searching import World
from tests.support.serving import LOCAL, Served, served

if TYPE_CHECKING:  # it takes more than a second, also where these slow tests are left out
    from schemathesis import Case

WITH_BODY = [
    "POST /v1/translate",
    "POST /v1/search/text",
    "POST /v1/search/like",
    "POST /v1/search/image",
    "POST /v1/search/batch",
    "POST /v1/classify",
    "POST /v1/images",
    "POST /v1/images/batch",
    "POST /translate",
    "POST /detect",
    "PUT /v1/models/{application}",
]
WITHOUT_BODY = [
    "GET /v1/images",
    "GET /v1/images/{id}",
    "DELETE /v1/images",
    "DELETE /v1/images/{id}",
    "GET /v1/models",
    "GET /languages",
]
CASES = [(name, kind) for name in WITH_BODY for kind in ("positive", "negative")] + [
    (name, "positive")
    for name in WITHOUT_BODY  # any text is an id
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(
    translator: Translator, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    collection = world.copy_collection(tmp_path_factory.mktemp("fuzzed"))
    with served(translator.artifact.location.uri, collection) as both:
        yield both


@pytest.fixture(scope="module")
def operations(running: Served) -> dict[str, Any]:
    """The document's operations by method and path."""
    import schemathesis

    document = running.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    listed = [result.ok() for result in schema.get_all_operations()]
    return {f"{operation.method.upper()} {operation.path}": operation for operation in listed}


def test_every_operation_of_the_document_is_asked(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted(WITH_BODY + WITHOUT_BODY)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_random_requests_are_answered_as_documented(
    running: Served, operations: dict[str, Any], name: str, kind: str
) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

    conformance = [
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.status_code_conformance,
    ]
    statuses = set()

    @settings(
        max_examples=60,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operations[name].as_strategy(generation_mode=GenerationMode(kind)))
    def ask(case: Case) -> None:
        answer = send(running, case)
        statuses.add(answer.status_code)
        assert answer.status_code < 500 or answer.status_code == 503, case.as_curl_command()
        assert "Traceback" not in answer.text
        case.validate_response(answer, checks=conformance)

    ask()
    assert statuses


def send(running: Served, case: Case) -> Any:
    """Sends what schemathesis made, byte by byte."""
    prepared = requests.Request(**case.as_transport_kwargs(base_url=LOCAL)).prepare()
    return running.client.request(
        prepared.method or "", prepared.url or "", content=prepared.body, headers=prepared.headers
    )
