"""Spans, and the trace context from one piece of work to the next.

Whether a trace is recorded is decided before anything is made for it, so that an unsampled one costs one small object
(1.2 µs measured on CPython 3.11, three attributes included; a recorded one 7, and 4 more to be queued for export).
Without an exporter nothing is recorded, yet every trace has its id and carries it through every event and call: logs of
all services can be followed by it.

A span is built here and handed over when it ends; the exporter (`otlp.py`) loads the OpenTelemetry SDK, nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from ..clock import Clock
from ..errors import Misconfigured
from ..ids import Entropy
from ..ports.instrumentation import Field, Span, current_trace
from .names import SPANS, SpanName
from .redaction import redact_text
from .sampling import Sampler
from .trace_context import TraceIds, is_sampled, is_valid, read_traceparent, trace_id_of, with_flag

__all__ = ["COPIES_LIMIT", "LINKS_LIMIT", "FinishedSpan", "SpanSink", "Tracer", "passed_on"]

LINKS_LIMIT = 128
"""Links of one span: what the OpenTelemetry specification keeps by default."""
COPIES_LIMIT = 32
"""Traces of one batch that get a span of their own; together they cost a batch of 500 messages little."""
TEXT_LIMIT = 512


@dataclass(slots=True)
class FinishedSpan:
    """What a span became. `parent` and `links` are traceparents; times are nanoseconds since 1970."""

    declared: SpanName
    title: str
    traceparent: str
    parent: str | None
    attributes: dict[str, str | int | float | bool]
    links: Sequence[str]
    start_ns: int
    end_ns: int
    error_type: str | None


class SpanSink(Protocol):
    """Where recorded spans go. It must not wait."""

    def add(self, span: FinishedSpan) -> None: ...


class Tracer:
    """Makes spans for one process. `sink` None: trace context is passed on and nothing is recorded."""

    def __init__(
        self, clock: Clock, entropy: Entropy, sampler: Sampler, sink: SpanSink | None = None, *, strict: bool = False
    ) -> None:
        self.clock = clock
        self.sink = sink
        self.strict = strict
        self._sampler = sampler
        self._follow = sampler.parent_based
        self._quick = sampler.parent_based and not strict
        self._ids = TraceIds(entropy)

    def new_trace(self) -> str:
        """A traceparent for work that begins here."""
        trace_id, span_id = self._ids.trace_and_span_id()
        return f"00-{trace_id}-{span_id}-{'01' if self._sampler.begins(trace_id) else '00'}"

    def child_of(self, parent: str) -> str:
        """The traceparent of a recorded span under this parent."""
        return f"00-{trace_id_of(parent)}-{self._ids.span_id()}-01"

    def span(self, name: str, parent: str | None, attributes: Mapping[str, Field]) -> Span:
        """As `Instrumentation.span`.

        Raises:
            Misconfigured: when strict, the span or an attribute is not in the table.
        """
        if parent is not None and self._quick and (self.sink is None or not is_sampled(parent)) and is_valid(parent):
            return _Unrecorded(parent)  # what nearly every call comes to, before anything else is looked at
        declared = _declared(name, attributes) if self.strict else SPANS.get(name)
        parent = read_traceparent(parent)
        if parent is None:
            own = self.new_trace()
            if self.sink is None or declared is None or not is_sampled(own):
                return _Unrecorded(own)
        else:
            sampled = is_sampled(parent)
            if not self._follow and self._sampler.follows(parent) != sampled:
                sampled = not sampled
                parent = with_flag(parent, sampled)
            if self.sink is None or declared is None or not sampled:
                return _Unrecorded(parent)
            own = self.child_of(parent)
        return _Recorded(self, self.sink, declared, own, parent, (), attributes)

    def linked_span(self, name: str, links: Sequence[str], attributes: Mapping[str, Field]) -> Span:
        """As `Instrumentation.linked_span`.

        Messages of one trace alone: the span is a child in that trace. Of several: it begins a trace of its own, linked
        to theirs, and at its end each of the first `COPIES_LIMIT` traces gets a copy of it, linked back: whoever follows
        one order by its trace id sees every batch that the order went through.

        Raises:
            Misconfigured: when strict, the span or an attribute is not in the table.
        """
        declared = _declared(name, attributes) if self.strict else SPANS.get(name)
        if self.sink is None or declared is None:
            return _NOTHING
        traces: dict[str, str] = {}
        for link in links:
            if self._follow and not is_sampled(link):
                continue  # the cheap look first: where traces are sampled, most links are not
            parent = read_traceparent(link)
            if parent is not None and self._sampler.follows(parent):
                traces[trace_id_of(parent)] = parent
        if not traces:
            return _NOTHING
        parents = list(traces.values())
        if len(parents) == 1:
            return _Recorded(self, self.sink, declared, self.child_of(parents[0]), parents[0], (), attributes)
        own = f"00-{self._ids.trace_id()}-{self._ids.span_id()}-01"
        return _Recorded(self, self.sink, declared, own, None, parents, attributes)


def passed_on(parent: str | None) -> Span:
    """A span that records nothing and hands on what it was given: tracing is off."""
    return _NOTHING if parent is None else _Unrecorded(read_traceparent(parent))


_get_current, _set_current = current_trace.get, current_trace.set


class _Unrecorded:
    __slots__ = ("_before", "_traceparent")

    def __init__(self, traceparent: str | None) -> None:
        self._traceparent = traceparent

    def set(self, **attributes: Field) -> None: ...

    def __enter__(self) -> str | None:
        self._before = _get_current()
        _set_current(self._traceparent)
        return self._traceparent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not a reset by token: that fails where a block is left in another context than it was entered in.
        _set_current(self._before)


class _Nothing:
    """A batch without a recorded trace. It leaves the current trace alone, so that one object serves all."""

    __slots__ = ()

    def set(self, **attributes: Field) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


_NOTHING = _Nothing()


class _Recorded:
    __slots__ = (
        "_attributes", "_before", "_declared", "_links", "_own", "_parent", "_sink", "_start", "_start_ns", "_tracer",
    )  # fmt: skip

    def __init__(
        self, tracer: Tracer, sink: SpanSink, declared: SpanName, own: str, parent: str | None, links: Sequence[str],
        attributes: Mapping[str, Field],
    ) -> None:  # fmt: skip
        self._tracer = tracer
        self._sink = sink
        self._declared = declared
        self._own = own
        self._parent = parent
        self._links = links
        self._attributes = dict(attributes)

    def set(self, **attributes: Field) -> None:
        if self._tracer.strict:
            _declared(self._declared.name, attributes)
        self._attributes.update(attributes)

    def __enter__(self) -> str:
        self._before = _get_current()
        _set_current(self._own)
        # The wall clock says when, the monotonic one how long: a wall clock that jumps makes no negative span.
        self._start_ns = self._tracer.clock.now_us() * 1000
        self._start = self._tracer.clock.monotonic()
        return self._own

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set_current(self._before)
        end_ns = self._start_ns + round((self._tracer.clock.monotonic() - self._start) * 1e9)
        # Only the type: an exception's text may carry a payload.
        failed = None if kind is None else kind.__qualname__
        title, attributes = _described(self._declared, self._attributes)
        links = self._links[:LINKS_LIMIT]
        self._sink.add(
            FinishedSpan(
                self._declared, title, self._own, self._parent, attributes, links, self._start_ns, end_ns, failed
            )
        )
        for parent in self._links[:COPIES_LIMIT]:
            own = self._tracer.child_of(parent)
            self._sink.add(
                FinishedSpan(
                    self._declared, title, own, parent, attributes, (self._own,), self._start_ns, end_ns, failed
                )
            )


def _described(declared: SpanName, given: Mapping[str, Field]) -> tuple[str, dict[str, str | int | float | bool]]:
    attributes: dict[str, str | int | float | bool] = {}
    title = declared.title
    for field, exported in declared.attributes:
        value = given.get(field)
        if isinstance(value, str):
            value = redact_text(value[:TEXT_LIMIT])
        if value is not None:
            attributes[exported] = value
        title = title.replace("{" + field + "}", "?" if value is None else str(value))
    return title, attributes


def _declared(name: str, attributes: Mapping[str, Field]) -> SpanName:
    declared = SPANS.get(name)
    if declared is None:
        raise Misconfigured(f"{name!r} is no span; declare it in telemetry/names.py")
    known = {field for field, _ in declared.attributes}
    unknown = [field for field in attributes if field not in known]
    if unknown:
        raise Misconfigured(f"span {name} has no attribute {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return declared
