"""What leaves the server of Ray Serve's traces: who called whom and for how long, and no content.

Serve itself makes the spans of its proxy, of each call and of each replica, and continues a
client's `traceparent`. `environment` switches it on in Ray's processes, from their start:
`tracing_config` of a Serve YAML would come too late for the proxies. OpenTelemetry's SDK is loaded
only then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqvis.checks import require_extra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTER = "serve.common.tracing:span_processors"
NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")  # the extra `tracing`
# Others quote a path, in which a picture's id may be, or an error, in which a word of a query may.
_ATTRIBUTES = (
    "request_id",
    "app",
    "deployment",
    "replica_id",
    "call_method",
    "is_streaming",
    "http.method",
    "http.status_code",
    "rpc.method",
    "rpc.service",
    "rpc.grpc.status_code",
)

_on = False  # in this process


def environment(address: str, share: float) -> dict[str, str]:
    """Return the environment in which Ray's processes send traces to an address.

    `share`: of the requests that their clients do not trace. Raises ConfigError if the extra
    `tracing` is not installed.
    """
    require_extra("tracing", *NEEDED)
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": EXPORTER,
        "RAY_SERVE_TRACING_SAMPLING_RATIO": str(share),
    }


def span_processors() -> list[SpanProcessor]:
    """Return what Serve hands its spans to, in each of its processes.

    They are sent by OTLP over HTTP to where OTEL_EXPORTER_OTLP_ENDPOINT says, by default to port
    4318 of this machine.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _on
    _on = True
    os.environ.setdefault("OTEL_SERVICE_NAME", "seqvis")  # read when Serve makes its tracer
    return [BatchSpanProcessor(without_content(OTLPSpanExporter()))]


def name_request(method: str, route: str) -> None:
    """Name the span of the request that this process answers, if it is traced."""
    if _on:
        from opentelemetry.trace import get_current_span

        get_current_span().update_name(f"{method} {route}")


def without_content(exporter: SpanExporter) -> SpanExporter:
    """Return an exporter that passes on neither what a client sent nor the texts of errors.

    Names, times, who called whom, and the attributes above are left of a span.
    """
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace.status import Status

    def bare(span: ReadableSpan) -> ReadableSpan:
        attributes = span.attributes or {}
        # The proxy's spans end with the request's whole path.
        name = span.name.partition(" ")[0] if span.name.startswith("proxy_") else span.name
        return ReadableSpan(
            name,
            span.context,
            span.parent,
            span.resource,
            {key: attributes[key] for key in _ATTRIBUTES if key in attributes},
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    class WithoutContent(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return exporter.export([bare(span) for span in spans])

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return exporter.force_flush(timeout_millis)

    return WithoutContent()
