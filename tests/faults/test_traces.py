"""Traces of a real server, as a collector gets them by OTLP."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serve.app import free_port
from serve.common.tracing import environment
from serve.testing.server import RunningServer, local_config, run_config
from tests.faults.conftest import QUERIES, Collections, Translators

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass
class Collector:
    """What has arrived, as a collector of OpenTelemetry would get it."""

    address: str
    arrived: list[bytes] = field(default_factory=list)

    def trace(self, identity: str) -> list[Any]:
        """The spans of a trace, the parents first."""
        spans = {}
        for content in list(self.arrived):
            for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                assert names["service.name"] == "seqvis"
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        if span.trace_id.hex() == identity:
                            spans[span.span_id] = span
        return sorted(spans.values(), key=lambda span: self.depth(span, spans))

    def depth(self, span: Any, spans: dict[bytes, Any]) -> int:
        parent = spans.get(span.parent_span_id)
        return 0 if parent is None else 1 + self.depth(parent, spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.arrived.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()


@pytest.fixture(scope="module", params=["HAProxy", "Serve's own proxy"])
def traced(
    request: pytest.FixtureRequest,
    translators: Translators,
    collections: Collections,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningServer, Collector, bool]]:
    """A server that traces what its clients trace, its collector, and whether HAProxy is there."""
    haproxy = request.param == "HAProxy"
    with collecting() as collector:
        switches = {
            **environment(collector.address, share=0.0),
            "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds
            **({} if haproxy else {"RAY_SERVE_ENABLE_HA_PROXY": "0"}),
        }
        config = local_config(translators.first, collections.second, free_port())
        logs: Path = tmp_path_factory.mktemp("traced")
        with run_config(config, logs, switches) as server:
            yield server, collector, haproxy


def spans_of(
    traced: tuple[RunningServer, Collector, bool],
    path: str,
    body: dict[str, Any],
    last: str,
    status: int = 200,
) -> tuple[str, list[Any]]:
    """Ask as a client that traces its request; its span's id, and the server's spans."""
    server, collector, _ = traced
    trace, parent = os.urandom(16).hex(), os.urandom(8).hex()
    answer = requests.post(
        f"{server.address}{path}",
        json=body,
        headers={"traceparent": f"00-{trace}-{parent}-01"},
        timeout=30,
    )
    assert answer.status_code == status, answer.text
    until = time.monotonic() + 60
    while not any(last in span.name for span in collector.trace(trace)):
        assert time.monotonic() < until, [span.name for span in collector.trace(trace)]
        time.sleep(0.1)
    time.sleep(1.0)  # for what has been sent meanwhile
    return parent, collector.trace(trace)


def through_proxy(traced: tuple[RunningServer, Collector, bool], spans: list[Any]) -> bool:
    """Tell whether a request came through Serve's own proxy.

    With HAProxy that happens, too, until HAProxy has found a new replica healthy.
    """
    return not traced[2] or spans[0].name == "proxy_http_request"


def check(parent: str, spans: list[Any], names: list[str]) -> None:
    """Check that each span is the child of the one before it, and the first the client's."""
    assert [span.name for span in spans] == names
    for span in spans:
        assert span.parent_span_id.hex() == parent
        parent = span.span_id.hex()


def test_a_translation_is_one_trace(traced: tuple[RunningServer, Collector, bool]) -> None:
    parent, spans = spans_of(
        traced, "/v1/translate", {"text": "Où est le livre secret ?"}, "POST /v1/translate"
    )
    proxy = ["proxy_http_request", "route_to_replica Translator __call__"]
    check(parent, spans, [*(proxy if through_proxy(traced, spans) else []), "POST /v1/translate"])
    private(spans)


def test_a_search_is_one_trace_through_the_gateway(
    traced: tuple[RunningServer, Collector, bool],
) -> None:
    parent, spans = spans_of(
        traced, "/v1/search/text", {"query": QUERIES[0]}, "replica_handle_request Index-0"
    )
    proxy = ["proxy_http_request", "route_to_replica Gateway __call__"]
    names = ["POST /v1/search/text"]
    names += ["route_to_replica Index-0 search", "replica_handle_request Index-0 search"]
    check(parent, spans, [*(proxy if through_proxy(traced, spans) else []), *names])
    private(spans)


def test_an_error_says_nothing_of_the_query(traced: tuple[RunningServer, Collector, bool]) -> None:
    asked = "/v1/search/text", {"query": "xqzsecret"}
    _, spans = spans_of(traced, *asked, "replica_handle_request Index-0", status=422)
    private(spans)


def test_what_nobody_traces_is_not_traced(traced: tuple[RunningServer, Collector, bool]) -> None:
    server, collector, _ = traced
    before = len(collector.arrived)
    requests.post(f"{server.address}/v1/search/text", json={"query": QUERIES[0]}, timeout=30)
    time.sleep(1.0)
    assert len(collector.arrived) == before


def private(spans: list[Any]) -> None:
    """Check that nothing of a request is in its spans but what they may have."""
    text = "".join(map(str, spans))
    for word in ("secret", "livre", QUERIES[0], "traceback"):
        assert word not in text
    assert not any(span.events for span in spans)
