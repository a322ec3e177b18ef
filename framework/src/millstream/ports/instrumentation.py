"""The instrumentation port: what the kernel tells about itself.

Cheap by construction: counters are plain additions made once a batch, never once a message, and read by a collector
when somebody asks; a span exists only for a sampled trace. `Silent` does nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["Field", "Instrumentation", "Labels", "Silent"]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order of the metric's declaration; build once and keep."""
Field = str | int | float | bool | None


class Instrumentation(Protocol):
    """Metrics, spans and logs. Names of metrics and spans are declared in `telemetry/names.py`."""

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None:
        """Add to a counter."""
        ...

    def observe(self, metric: str, labels: Labels, seconds: float) -> None:
        """Add one observation to a histogram of durations."""
        ...

    def gauge(self, metric: str, labels: Labels, read: Callable[[], float]) -> None:
        """Declare a gauge; `read` is called when a collector asks."""
        ...

    def new_trace(self) -> str | None:
        """A traceparent for work that begins here; None while tracing is off."""
        ...

    def span(self, name: str, parent: str | None, **attributes: Field) -> AbstractContextManager[str | None]:
        """A span under a W3C traceparent; gives the traceparent to pass on (the parent's own where not sampled)."""
        ...

    def linked_span(self, name: str, links: list[str], **attributes: Field) -> AbstractContextManager[str | None]:
        """One span for a batch, linked to the sampled ones among the traces of its messages."""
        ...

    def log(self, level: str, event: str, **fields: Field) -> None:
        """A structured log line: a constant event name plus fields. No payloads, no secrets."""
        ...


class Silent:
    """Instrumentation that keeps nothing."""

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None: ...

    def observe(self, metric: str, labels: Labels, seconds: float) -> None: ...

    def gauge(self, metric: str, labels: Labels, read: Callable[[], float]) -> None: ...

    def new_trace(self) -> str | None:
        return None

    def span(self, name: str, parent: str | None, **attributes: Field) -> AbstractContextManager[str | None]:
        return nullcontext(parent)

    def linked_span(self, name: str, links: list[str], **attributes: Field) -> AbstractContextManager[str | None]:
        return nullcontext(None)

    def log(self, level: str, event: str, **fields: Field) -> None: ...
