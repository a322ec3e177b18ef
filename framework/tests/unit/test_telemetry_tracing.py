"""Trace context, sampling, and which spans come to be."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.clock import SystemClock
from millstream.errors import Misconfigured
from millstream.ports.instrumentation import current_trace
from millstream.telemetry.sampling import Sampler, sampler_from
from millstream.telemetry.trace_context import TraceIds, is_sampled, read_traceparent, trace_id_of, with_flag
from millstream.telemetry.tracing import COPIES_LIMIT, LINKS_LIMIT, FinishedSpan, Tracer

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")
SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01"
UNSAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-00"
HTTP = "millstream.http.request"
BATCH = "millstream.batch"


class Seeded:
    """Entropy that a test can repeat."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def random(self) -> float:
        return self._random.random()

    def token(self, n_bytes: int) -> bytes:
        return self._random.randbytes(n_bytes)


class Zeros(Seeded):
    """First draws nothing but zeros."""

    drawn = 0

    def token(self, n_bytes: int) -> bytes:
        self.drawn += 1
        return bytes(n_bytes) if self.drawn == 1 else super().token(n_bytes)


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[FinishedSpan] = []

    def add(self, span: FinishedSpan) -> None:
        self.spans.append(span)


def tracer(sampler: Sampler | None = None, sink: Kept | None = None, *, strict: bool = True) -> Tracer:
    return Tracer(SystemClock(), Seeded(), sampler or Sampler(), sink, strict=strict)


def traceparents(count: int, flags: str = "01") -> list[str]:
    return [f"00-{number + 1:032x}-{number + 1:016x}-{flags}" for number in range(count)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (SAMPLED, SAMPLED),
        (f"cc{SAMPLED[2:]}", SAMPLED),
        (f"cc{SAMPLED[2:]}-what-comes-later", SAMPLED),
        (f"cc{SAMPLED[2:]}x", None),
        (f"{SAMPLED}-more", None),
        (f"ff{SAMPLED[2:]}", None),
        (f"00-{'0' * 32}-{'cd' * 8}-01", None),
        (f"00-{'ab' * 16}-{'0' * 16}-01", None),
        (SAMPLED.upper(), None),
        (f"{SAMPLED}\n", None),
        ("", None),
        (None, None),
    ],
)
def test_a_strangers_traceparent_is_read_as_the_standard_says(text: str | None, read: str | None) -> None:
    assert read_traceparent(text) == read


@given(st.text())
def test_no_text_breaks_the_reading_of_a_traceparent(text: str) -> None:
    read = read_traceparent(text)
    assert read is None or re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", read)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_the_lowest_bit_of_the_flags_says_whether_a_trace_is_recorded(flags: str, sampled: bool) -> None:
    assert is_sampled(f"{SAMPLED[:53]}{flags}") == sampled


def test_ids_are_never_all_zero_and_never_the_same() -> None:
    ids = TraceIds(Zeros())
    drawn = [ids.span_id() for _ in range(2_000)]
    assert len(set(drawn)) == 2_000
    assert "0" * 16 not in drawn


def test_the_same_entropy_gives_the_same_traces() -> None:
    assert [tracer().new_trace() for _ in range(3)] == [tracer().new_trace() for _ in range(3)]


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 0.9, 1.0])
def test_a_ratio_samples_that_share_of_new_traces(ratio: float) -> None:
    made = tracer(Sampler(ratio))
    begun = [made.new_trace() for _ in range(20_000)]
    assert all(TRACEPARENT.fullmatch(traceparent) for traceparent in begun)
    assert sum(is_sampled(traceparent) for traceparent in begun) / len(begun) == pytest.approx(ratio, abs=0.015)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 2**128 - 1))
def test_processes_with_a_larger_ratio_record_what_those_with_a_smaller_one_do(a: float, b: float, trace: int) -> None:
    small, large = sorted((a, b))
    assert Sampler(small).begins(f"{trace:032x}") <= Sampler(large).begins(f"{trace:032x}")


@pytest.mark.parametrize(
    ("name", "argument", "sampler"),
    [
        (None, None, Sampler(1.0, True)),
        ("always_on", None, Sampler(1.0, False)),
        ("always_off", None, Sampler(0.0, False)),
        ("traceidratio", "0.25", Sampler(0.25, False)),
        ("parentbased_traceidratio", "0.25", Sampler(0.25, True)),
        ("parentbased_traceidratio", None, Sampler(1.0, True)),
        ("parentbased_always_off", "ignored", Sampler(0.0, True)),
    ],
)
def test_samplers_have_the_names_of_opentelemetry(name: str | None, argument: str | None, sampler: Sampler) -> None:
    assert sampler_from(name, argument) == sampler


@pytest.mark.parametrize(
    ("name", "argument"),
    [("jaeger_remote", None), ("traceidratio", "1.5"), ("traceidratio", "nan"), ("traceidratio", "x")],
)
def test_an_unknown_sampler_or_ratio_is_refused(name: str, argument: str | None) -> None:
    with pytest.raises(Misconfigured, match="OTEL_TRACES_SAMPLER"):
        sampler_from(name, argument)


@pytest.mark.parametrize("strict", [True, False])
def test_without_an_exporter_the_context_is_passed_on_as_it_came(strict: bool) -> None:
    for parent in (SAMPLED, UNSAMPLED):
        with tracer(strict=strict).span(HTTP, parent, {}) as traceparent:
            assert traceparent == parent


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("parent", [None, "", "garbage", "00-" + "z" * 52])
def test_work_without_a_valid_parent_begins_a_trace(parent: str | None, strict: bool) -> None:
    sink = Kept()
    with tracer(sink=sink, strict=strict).span(HTTP, parent, {}) as traceparent:
        assert traceparent is not None
        assert TRACEPARENT.fullmatch(traceparent)
    assert [(span.traceparent, span.parent) for span in sink.spans] == [(traceparent, None)]


def test_an_unsampled_parent_is_followed_and_nothing_is_recorded() -> None:
    sink = Kept()
    with tracer(sink=sink).span(HTTP, UNSAMPLED, {}) as traceparent:
        assert traceparent == UNSAMPLED
    assert sink.spans == []


def test_a_recorded_span_is_a_child_with_times_title_and_attributes() -> None:
    sink = Kept()
    with (span := tracer(sink=sink).span(HTTP, SAMPLED, {"service": "orders", "method": "POST"})) as own:
        span.set(route="/orders/{id}", status=201)
    (finished,) = sink.spans
    assert (finished.traceparent, finished.parent) == (own, SAMPLED)
    assert own is not None
    assert trace_id_of(own) == trace_id_of(SAMPLED)
    assert own[36:52] != SAMPLED[36:52]
    assert finished.title == "POST /orders/{id}"
    assert finished.attributes == {
        "millstream.service": "orders",
        "http.request.method": "POST",
        "http.route": "/orders/{id}",
        "http.response.status_code": 201,
    }
    assert finished.start_ns <= finished.end_ns
    assert finished.error_type is None


def test_an_exception_passes_and_only_its_type_is_noted() -> None:
    sink = Kept()
    with pytest.raises(ValueError, match="4111"), tracer(sink=sink).span(HTTP, SAMPLED, {}):
        raise ValueError("card 4111 1111 1111 1111")
    assert sink.spans[0].error_type == "ValueError"
    assert "4111" not in repr(sink.spans[0])


def test_a_sampler_that_is_not_parent_based_sets_the_flag_by_its_own_ratio() -> None:
    with tracer(Sampler(0.0, False), Kept()).span(HTTP, SAMPLED, {}) as traceparent:
        assert traceparent == with_flag(SAMPLED, False)
    sink = Kept()
    with tracer(Sampler(1.0, False), sink).span(HTTP, UNSAMPLED, {}) as traceparent:
        assert traceparent is not None
        assert is_sampled(traceparent)
    assert len(sink.spans) == 1


@pytest.mark.parametrize("parent", [SAMPLED, UNSAMPLED])
def test_the_current_trace_is_the_open_spans_and_then_the_former(parent: str) -> None:
    before = current_trace.get()
    with tracer(sink=Kept()).span(HTTP, parent, {}) as outer:
        assert current_trace.get() == outer
        with tracer(sink=Kept()).span(HTTP, outer, {}) as inner:
            assert current_trace.get() == inner
        assert current_trace.get() == outer
    assert current_trace.get() == before


def test_a_batch_without_a_sampled_trace_makes_no_span() -> None:
    sink = Kept()
    with tracer(sink=sink).linked_span(BATCH, [*traceparents(500, "00"), "", "garbage1"], {}) as traceparent:
        assert traceparent is None
    assert sink.spans == []


def test_a_batch_of_one_trace_is_a_child_in_that_trace() -> None:
    sink = Kept()
    with tracer(sink=sink).linked_span(BATCH, [SAMPLED, *traceparents(9, "00"), SAMPLED], {"messages": 11}) as own:
        pass
    assert [(span.traceparent, span.parent, list(span.links)) for span in sink.spans] == [(own, SAMPLED, [])]


def test_a_batch_of_several_traces_is_one_linked_span_with_a_copy_in_each_trace() -> None:
    sink = Kept()
    links = traceparents(3)
    with tracer(sink=sink).linked_span(BATCH, [*links, *traceparents(200, "00")[100:]], {"subscription": "s"}) as own:
        pass
    root, *copies = sink.spans
    assert (root.traceparent, root.parent, list(root.links)) == (own, None, links)
    assert [copy.parent for copy in copies] == links
    assert [trace_id_of(copy.traceparent) for copy in copies] == [trace_id_of(link) for link in links]
    assert all(list(copy.links) == [own] and copy.title == "s" for copy in copies)


def test_links_and_copies_of_a_batch_are_bounded() -> None:
    sink = Kept()
    with tracer(sink=sink).linked_span(BATCH, traceparents(500), {}):
        pass
    assert len(sink.spans) == 1 + COPIES_LIMIT
    assert len(sink.spans[0].links) == LINKS_LIMIT


def test_undeclared_spans_and_attributes_raise_where_strict_and_else_are_left_out() -> None:
    for wrong in ({"name": "nothing", "attributes": {}}, {"name": HTTP, "attributes": {"password": "p"}}):
        with pytest.raises(Misconfigured):
            tracer().span(parent=None, **wrong)
        with pytest.raises(Misconfigured):
            tracer().linked_span(links=[], **wrong)
    sink = Kept()
    lenient = tracer(sink=sink, strict=False)
    with lenient.span("nothing", SAMPLED, {}) as traceparent:
        assert traceparent == SAMPLED
    with lenient.span(HTTP, SAMPLED, {"password": "p"}):
        pass
    assert [dict(span.attributes) for span in sink.spans] == [{}]


def test_credentials_in_an_attribute_are_blanked_and_long_texts_cut() -> None:
    sink = Kept()
    with tracer(sink=sink).span(HTTP, SAMPLED, {"route": "/x?token=hunter2", "method": "G" * 10_000}):
        pass
    assert "hunter2" not in repr(sink.spans[0])
    assert len(sink.spans[0].title) < 2_000
