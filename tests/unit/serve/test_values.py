"""JSON and forms of clients: what is too much is refused at once, before a replica hears of it."""

import json
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.common.http import ApiError
from serve.common.settings import GatewaySettings
from serve.gateway.checks import read_json
from serve.gateway.live import LiveModels
from serve.gateway.routes import build_api
from tests.support.serving import LOCAL, MemoryStore

PICTURE = {"file": ("a.jpg", b"\xff\xd8", "image/jpeg")}


@pytest.fixture(scope="module")
def client() -> TestClient:
    """An interface without any part: what passes the checks is 404."""
    api = build_api(
        LiveModels(MemoryStore(), None, None), GatewaySettings(), None, lambda seen: None
    )
    return TestClient(api, base_url=LOCAL, client=("127.0.0.1", 50000))


def post(client: TestClient, path: str, **body: Any) -> tuple[int, str, str]:
    """Status, code and message of an answer, which must come within a second."""
    if isinstance(body.get("content"), str):
        body["headers"] = {"content-type": "application/json"}
    began = time.monotonic()
    answer = client.post(path, **body)
    assert time.monotonic() - began < 1.0
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["message"]


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_what_json_can_say_is_read_as_json_reads_it() -> None:
    for text in (
        ' {"a": [1, -2.5e3, "\\ud83d\\ude00 \\"[{,", null, true, {}, []], "é": "l\'été"} ',
        "[]",
        '"x"',
        "12",
        nested(32),
        json.dumps(["{[,\\" * 500] * 1999),
    ):
        assert read_json("it", text.encode(), 2000) == json.loads(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "twice"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDfff": 1}', "surrogate"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b"[NaN]", "not finite"),
        (b"-Infinity", "not finite"),
        (b"1e999", "not finite"),
        (b"1" * 5000, "is not JSON"),
        (nested(33).encode(), "deeper than 32"),
        (b"[" * 33, "deeper than 32"),
        (json.dumps(list(range(2000))).encode(), "2,000 values"),
        (b"[" + b'"",' * 3000, "2,000 values"),
        (b'{"a": ', "is not JSON"),
        (b'"' + b'\\"' * 100, "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_what_is_too_much_or_no_json_is_refused_with_the_reason(
    content: bytes, problem: str
) -> None:
    with pytest.raises(ApiError, match=problem) as caught:
        read_json("it", content)
    assert (caught.value.status, caught.value.code) == (422, "invalid")


@pytest.mark.parametrize(
    "piece", [b"[", b'"', b'\\"', b'"\\', b"1,", b'"",', b"1", b'{"a":', b" ", b"\\", b"[]"]
)
def test_megabytes_that_mean_nothing_are_refused_quickly(piece: bytes) -> None:
    for begin in (b"", b'"', b"["):
        content = begin + piece * ((12 << 20) // len(piece))
        began = time.process_time()
        with pytest.raises(ApiError):
            read_json("it", content, 14_800)
        assert time.process_time() - began < 1.5  # 0.3 measured


@pytest.mark.parametrize(
    ("path", "content", "problem"),
    [
        ("/v1/translate", '{"text": "\\ud800"}', "surrogate"),
        ("/v1/search/text", '{"query": "\\ud800"}', "surrogate"),
        ("/v1/search/text", '{"query": "boat", "where": ' + nested(900) + "}", "deeper"),
        ("/v1/search/like", '{"id": "a", "id": "b"}', "twice"),
        ("/v1/translate", json.dumps({"text": ["a"] * 14_801}), "14,800 values"),
        ("/v1/search/text", json.dumps({"query": ["a"] * 2001}), "2,000 values"),
    ],
)
def test_bodies_that_no_part_could_use_are_refused(
    client: TestClient, path: str, content: str, problem: str
) -> None:
    status, code, message = post(client, path, content=content)
    assert (status, code) == (422, "invalid")
    assert problem in message


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ({f"k{number}": 1 for number in range(17)}, "17 fields; 16"),
        ({f"k{number}": 1 for number in range(1000)}, "1,000 fields; 16"),
        ({"k": list(range(90)), "l": list(range(20))}, "110 values; 100"),
        ({"k": "x" * 9000}, "9,009 bytes as JSON; 8,192"),
    ],
)
def test_a_filter_is_of_a_size_that_a_search_is_made_for(
    client: TestClient, where: dict[str, Any], problem: str
) -> None:
    body = {"query": "boat", "where": where}
    form = {"where": json.dumps(where)}
    for status, code, message in (
        post(client, "/v1/search/text", json=body),
        post(client, "/v1/search/like", json={"id": "a", "where": where}),
        post(client, "/v1/search/image", files=PICTURE, data=form),
    ):
        assert (status, code) == (422, "invalid")
        assert problem in message


@pytest.mark.parametrize(
    "where",
    [
        {f"k{number}": [1, 2, 3] for number in range(16)},
        " and ".join(f"k{number} in [1, 2, 3]" for number in range(16)),
        " or ".join(["k > 1"] * 100),
        "k = " + "x" * ((8 << 10) - 4),
    ],
)
def test_the_largest_filter_is_no_error(client: TestClient, where: Any) -> None:
    assert post(client, "/v1/search/text", json={"query": "boat", "where": where})[0] == 404
    form = {"where": where if isinstance(where, str) else json.dumps(where)}
    assert post(client, "/v1/search/image", files=PICTURE, data=form)[0] == 404


@pytest.mark.parametrize(
    ("where", "code", "problem"),
    [
        ("year >= ", "bad_filter", "the end of the filter, at column 9: expected a number"),
        ("", "bad_filter", "the end of the filter, at column 1: expected a field"),
        ("(" * 8000, "bad_filter", "at most 32 levels"),
        ("k = " + "x" * (8 << 10), "invalid", "8,196 bytes; 8,192 at most"),
        ("k = " + "é" * 5000, "invalid", "10,004 bytes; 8,192 at most"),
        (" and ".join(f"k{number} exists" for number in range(17)), "invalid", "17 fields; 16"),
        (" or ".join(["k missing"] * 101), "invalid", "101 values; 100"),
        (f"k in {list(range(101))}", "invalid", "101 values; 100"),
        ("people any (" + " or ".join(["k in []"] * 101) + ")", "invalid", "101 values; 100"),
    ],
)
def test_a_filter_as_text_is_read_and_bounded(
    client: TestClient, where: str, code: str, problem: str
) -> None:
    for path, body in (
        ("/v1/search/text", {"json": {"query": "boat", "where": where}}),
        ("/v1/search/like", {"json": {"id": "a", "where": where}}),
        ("/v1/search/batch", {"json": {"searches": [{"query": "boat", "where": where}]}}),
        ("/v1/search/image", {"files": PICTURE, "data": {"where": where}}),
    ):
        if where or "json" in body:  # an empty field of a form is as good as none
            status, *answer = post(client, path, **body)
            assert (status, answer[0]) == (422, code)
            assert problem in answer[1]


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (nested(900), "deeper"),
        (json.dumps({"a": "\ud800"}), "surrogate"),
        (json.dumps({"a": "x" * 16_500}), "16,384 at most"),
        (json.dumps({"a": "é" * 9_000}, ensure_ascii=False), "16,384 at most"),
        (json.dumps({"a": "x" * 900_000}), "20,000 at most"),
        (json.dumps({"a": "x" * 5_000_000}), "20,000 at most"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
)
def test_metadata_that_is_too_much_is_refused(
    client: TestClient, metadata: str, problem: str
) -> None:
    status, code, message = post(
        client, "/v1/images", files=PICTURE, data={"metadata": metadata, "id": "a"}
    )
    assert (status, code) == (422, "invalid")
    assert problem in message


def test_metadata_of_16_kilobytes_is_no_error(client: TestClient) -> None:
    form = {"metadata": json.dumps({"a": "x" * 16_300}), "id": "a"}
    assert post(client, "/v1/images", files=PICTURE, data=form)[0] == 404


def test_a_form_has_a_hundred_fields_and_is_in_utf_8(client: TestClient) -> None:
    many = {f"field{number}": "1" for number in range(101)}
    status, _, message = post(client, "/v1/images", files=PICTURE, data=many)
    assert status == 400
    assert "Maximum number of fields is 100" in message
    # Decoding the field with this encoding would take hours.
    body = b'--x\r\nContent-Disposition: form-data; name="id"\r\n\r\n' + b"a" * (4 << 20)
    body += b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x; charset=punycode"}
    status, _, message = post(client, "/v1/classify", content=body, headers=headers)
    assert status == 422
    assert "UTF-8" in message
