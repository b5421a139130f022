"""What leaves the server of traces, and how they are switched on. tests/faults has real ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.status import Status, StatusCode

from serve.app import main
from serve.common import tracing

PROJECT = Path(__file__).parents[3]


def test_no_path_no_error_and_no_unknown_attribute_leaves_the_server() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(tracing.without_content(kept)))
    tracer = provider.get_tracer("serve")
    with tracer.start_as_current_span(
        "proxy_http_request Gateway GET /v1/images/private.jpg"
    ) as outer:
        outer.set_attributes(
            {
                "request_id": "mine",
                "deployment": "Gateway",
                "request_route_path": "/v1/images/private.jpg",
                "http.route": "/v1/images/private.jpg",
                "http.status_code": 422,
            }
        )
        with tracer.start_as_current_span("replica_handle_request Index-0 search") as inner:
            inner.record_exception(ValueError("private: has no word vector"))
            inner.set_status(Status(StatusCode.ERROR, "private: has no word vector"))
    child, parent = kept.get_finished_spans()
    assert parent.name == "proxy_http_request"
    assert dict(parent.attributes or {}) == {
        "request_id": "mine",
        "deployment": "Gateway",
        "http.status_code": 422,
    }
    assert child.name == "replica_handle_request Index-0 search"
    assert child.status.status_code == StatusCode.ERROR
    assert child.parent is not None
    assert child.parent.span_id == parent.context.span_id
    assert "private" not in child.to_json() + parent.to_json()


def test_what_names_the_spans_loads_nothing_while_there_are_none() -> None:
    code = "from serve.common import tracing; tracing.name_request('GET', '/'); import sys; "
    code += "print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_an_address_that_is_none_and_a_missing_extra_are_told_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--translator", "nothing", "--traces", "localhost:4318"]) == 2
    assert "--traces: localhost:4318 is no address" in capsys.readouterr().err
    monkeypatch.setattr("serve.common.tracing.NEEDED", ("opentelemetry_of_nobody.sdk",))
    assert main(["--translator", "nothing", "--traces", "http://localhost:4318"]) == 2
    assert "pip install 'seqvis[tracing]'" in capsys.readouterr().err
