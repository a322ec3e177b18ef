"""The instrumentation port: what the kernel tells about itself.

Cheap by construction: counters are plain additions made once a batch, never once a message, and read by a collector
when somebody asks; a span exists only for a sampled trace. `Silent` does nothing at all.

Names of metrics and spans are declared in `telemetry/names.py` and documented in `docs/telemetry.md`. Everything here is
called on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol

__all__ = ["Field", "Instrumentation", "Labels", "Silent", "Span", "current_trace"]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order of the metric's declaration; build once and keep."""
Field = str | int | float | bool | None

current_trace: ContextVar[str | None] = ContextVar("millstream_current_trace", default=None)
"""The traceparent of the work under way. Spans set it while they are open; whoever runs a batch sets it to each
message's own before its handler, so that every log line of the handler, also one of another library, names the trace."""


class Span(Protocol):
    """A context manager that gives the traceparent to pass on; `None` while tracing is off."""

    def set(self, **attributes: Field) -> None:
        """Add what is known only now, for instance the status of a reply. Before the span ends."""
        ...

    def __enter__(self) -> str | None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Instrumentation(Protocol):
    """Metrics, spans and logs."""

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None:
        """Add to a counter. An amount of 0 makes the series exist, so that its first increase is seen as one."""
        ...

    def observe(self, metric: str, labels: Labels, value: float, times: int = 1) -> None:
        """Add `times` observations of `value` to a histogram: a batch is folded into one call with its mean."""
        ...

    def gauge(self, metric: str, labels: Labels, read: Callable[[], float]) -> None:
        """Declare a gauge; `read` is called when a collector asks. It must not wait; a later one replaces it."""
        ...

    def new_trace(self) -> str | None:
        """A traceparent for work that begins here without a span of its own; None while tracing is off."""
        ...

    def span(self, name: str, parent: str | None, **attributes: Field) -> Span:
        """A span under a W3C traceparent; without one, or with one that is malformed, it begins a trace.

        Gives the traceparent to pass on: the span's own where it is recorded, else the parent's. An exception that
        leaves the block is noted by its type.
        """
        ...

    def linked_span(self, name: str, links: Sequence[str], **attributes: Field) -> Span:
        """One span for a batch, linked to the sampled ones among the traces of its messages."""
        ...

    def log(self, level: str, event: str, **fields: Field) -> None:
        """A structured log line: a constant event name plus fields. No payloads, no secrets.

        `level` is `debug`, `info`, `warning` or `error`. The fields `service` and `traceparent` have a meaning of their
        own; the key of a message is called `lane` (a field named `key` is taken for a secret).
        """
        ...


class _NoSpan:
    __slots__ = ("_traceparent",)

    def __init__(self, traceparent: str | None) -> None:
        self._traceparent = traceparent

    def set(self, **attributes: Field) -> None: ...

    def __enter__(self) -> str | None:
        return self._traceparent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silent:
    """Instrumentation that keeps nothing."""

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None: ...

    def observe(self, metric: str, labels: Labels, value: float, times: int = 1) -> None: ...

    def gauge(self, metric: str, labels: Labels, read: Callable[[], float]) -> None: ...

    def new_trace(self) -> str | None:
        return None

    def span(self, name: str, parent: str | None, **attributes: Field) -> Span:
        return _NoSpan(parent)

    def linked_span(self, name: str, links: Sequence[str], **attributes: Field) -> Span:
        return _NoSpan(None)

    def log(self, level: str, event: str, **fields: Field) -> None: ...
