"""Sends recorded spans by OTLP over HTTP. The only module that loads the OpenTelemetry SDK; imported when it is wanted.

The SDK's batch processor keeps a bounded queue (`OTEL_BSP_…` variables), sends from a thread of its own and drops what
does not fit. Each service of a process appears under its own name, unless `OTEL_SERVICE_NAME` says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field

from opentelemetry import version
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .settings import ExportSettings
from .tracing import FinishedSpan

__all__ = ["OtlpSink"]

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_COMPRESSIONS = {
    "none": Compression.NoCompression,
    "gzip": Compression.Gzip,
    "deflate": Compression.Deflate,
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("millstream")
_SERVICE = "millstream.service"
_OK = Status(StatusCode.UNSET)
_FAILED = Status(StatusCode.ERROR)


@dataclass(slots=True)
class _Resources:
    """The resource of each service: what a backend shows as the origin of a span."""

    base: dict[str, str]
    fixed_name: str | None
    default_name: str
    by_service: dict[str, Resource] = field(default_factory=dict[str, Resource])

    def of(self, service: str | None) -> Resource:
        name = self.fixed_name or service or self.default_name
        found = self.by_service.get(name)
        if found is None:
            found = self.by_service[name] = Resource({**self.base, "service.name": name})
        return found


class OtlpSink:
    """A span sink with the SDK's batch processor behind it."""

    def __init__(self, settings: ExportSettings, service: str) -> None:
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(
                endpoint=settings.endpoint,
                headers=dict(settings.headers),
                timeout=settings.timeout,
                compression=_COMPRESSIONS[settings.compression],
            )
        )
        base = {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": version.__version__,
            **settings.resource,
        }
        self._resources = _Resources(base, settings.service_name, service)

    def add(self, span: FinishedSpan) -> None:
        """Queue a span; the oldest ones give way when the queue is full."""
        service = span.attributes.get(_SERVICE)
        context = _context(span.traceparent)
        events: tuple[Event, ...] = ()
        attributes = span.attributes
        if span.error_type is not None:
            events = (Event("exception", {"exception.type": span.error_type}, span.end_ns),)
            attributes = {**attributes, "error.type": span.error_type}
        self._processor.on_end(
            ReadableSpan(
                name=span.title,
                context=context,
                parent=None if span.parent is None else _context(span.parent, remote=True),
                resource=self._resources.of(service if isinstance(service, str) else None),
                attributes=attributes,
                events=events,
                links=[Link(_context(link, remote=True)) for link in span.links],
                kind=_KINDS[span.declared.kind],
                status=_FAILED if _failed(span) else _OK,
                start_time=span.start_ns,
                end_time=span.end_ns,
                instrumentation_scope=_SCOPE,
            )
        )

    async def close(self, timeout: float) -> bool:
        """Send what is queued, and stop; False when `timeout` seconds were not enough and spans are lost.

        The SDK blocks while it sends, for longer than asked. So it runs in a thread that nobody waits for at exit.
        """
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def send() -> None:
            self._processor.shutdown()
            # A loop that has been closed meanwhile waits for nothing any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=send, name="millstream-telemetry-close", daemon=True).start()
        try:
            async with asyncio.timeout(timeout):
                await sent.wait()
        except TimeoutError:
            return False
        return True


def _failed(span: FinishedSpan) -> bool:
    # OpenTelemetry semantic conventions, HTTP server spans: a status of 5xx is an error, one of 4xx the client's matter.
    status = span.attributes.get("http.response.status_code")
    return span.error_type is not None or (isinstance(status, int) and status >= 500)


def _context(traceparent: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), remote, _SAMPLED)
