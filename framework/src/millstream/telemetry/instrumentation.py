"""`Telemetry`: metrics, traces and logs behind the instrumentation port, made from the environment.

One per process. Making it opens nothing but the exporter's queue, and that only where the environment names a collector.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from ..clock import Clock, SystemClock
from ..errors import Misconfigured
from ..ids import Entropy, SystemEntropy
from ..ports.instrumentation import Field, Labels, Span
from .exposition import Exposition
from .logs import Logs, Stream, TextRenderer, render_json
from .metrics import Metrics
from .settings import ExportSettings, TelemetrySettings, read_settings
from .stdlib_logging import LogAdoption
from .tracing import SpanSink, Tracer, passed_on

__all__ = ["Telemetry"]


class Telemetry:
    """Implements `ports.instrumentation.Instrumentation`.

    `strict` raises `Misconfigured` for names that the table does not know; tests use it.
    """

    def __init__(
        self, settings: TelemetrySettings, *, service: str = "millstream", stream: Stream | None = None,
        clock: Clock | None = None, entropy: Entropy | None = None, strict: bool = False,
    ) -> None:  # fmt: skip
        output: Stream = stream or sys.stderr
        clock = clock or SystemClock()
        self.metrics = Metrics(strict=strict, report=self._report)
        self._exposition = Exposition(self.metrics)
        terminal = _is_terminal(output)
        text = settings.log_format == "text" or (settings.log_format == "auto" and terminal)
        self._logs = Logs(
            output, clock, service=service, level=settings.log_level,
            render=TextRenderer(colour=terminal and settings.colour) if text else render_json,
            lost=lambda: self.metrics.lost("log_line"),
        )  # fmt: skip
        self._adoption = LogAdoption(self._logs, settings.log_level)
        self._sink = _open_sink(settings.export, service) if settings.tracing and settings.export else None
        self._tracer = (
            Tracer(clock, entropy or SystemEntropy(), settings.sampler, self._sink, strict=strict)
            if settings.tracing
            else None
        )

    @classmethod
    def from_environment(
        cls, env: Mapping[str, str], service: str = "millstream", *, stream: Stream | None = None,
        clock: Clock | None = None, entropy: Entropy | None = None, strict: bool = False,
    ) -> Self:  # fmt: skip
        """Telemetry as the variables of `telemetry/settings.py` ask for.

        Raises:
            Misconfigured: with every problem found; also where an exporter is wanted and its extra is not installed.
        """
        return cls(read_settings(env), service=service, stream=stream, clock=clock, entropy=entropy, strict=strict)

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None:
        """See the port."""
        self.metrics.count(metric, labels, amount)

    def observe(self, metric: str, labels: Labels, value: float, times: int = 1) -> None:
        """See the port."""
        self.metrics.observe(metric, labels, value, times)

    def gauge(self, metric: str, labels: Labels, read: Callable[[], float]) -> None:
        """See the port."""
        self.metrics.gauge(metric, labels, read)

    def new_trace(self) -> str | None:
        """See the port."""
        return None if self._tracer is None else self._tracer.new_trace()

    def span(self, name: str, parent: str | None, **attributes: Field) -> Span:
        """See the port."""
        return passed_on(parent) if self._tracer is None else self._tracer.span(name, parent, attributes)

    def linked_span(self, name: str, links: Sequence[str], **attributes: Field) -> Span:
        """See the port."""
        return passed_on(None) if self._tracer is None else self._tracer.linked_span(name, links, attributes)

    def log(self, level: str, event: str, **fields: Field) -> None:
        """See the port."""
        self._logs.log(level, event, fields)

    def exposition(self) -> tuple[bytes, str]:
        """Body and content type of the reply to `GET /metrics`. Called on the event loop's thread."""
        return self._exposition.render()

    def adopt_logging(self) -> None:
        """Bring what other libraries log, and Python's warnings, into this format, until `close`.

        Replaces the handlers of the root logger and of uvicorn's: give uvicorn `log_config=None`.
        """
        self._adoption.start()

    async def close(self, timeout: float = 5.0) -> None:
        """Send the spans that are still queued, for at most `timeout` seconds, and give `logging` back.

        Spans that could not be sent in time are lost, and a line says so. Counting and logging go on working.
        Cancelled, it leaves the sending to a thread that nobody waits for.
        """
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                if self._tracer is not None:
                    self._tracer.sink = None
                if not await sink.close(timeout):
                    self.log("warning", "spans_lost", reason="the collector did not take them in time", seconds=timeout)
        finally:
            self._adoption.stop()

    def _report(self, what: str, metric: str) -> None:
        self._logs.log("warning", "metric_problem", {"what": what, "metric": metric})


class _Closable(SpanSink, Protocol):
    async def close(self, timeout: float) -> bool: ...


def _open_sink(settings: ExportSettings, service: str) -> _Closable:
    try:
        from .otlp import OtlpSink
    except ImportError as error:
        raise Misconfigured(
            f"spans are to be exported, but {error.name} is not installed: pip install 'millstream[otlp]', "
            "or set OTEL_TRACES_EXPORTER=none"
        ) from error
    return OtlpSink(settings, service)


def _is_terminal(stream: Stream) -> bool:
    return bool(getattr(stream, "isatty", bool)())
