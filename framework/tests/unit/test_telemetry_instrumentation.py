"""`Telemetry` from an environment, and spans that a real collector receives and decodes."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from millstream.errors import Misconfigured
from millstream.ports.instrumentation import Instrumentation, Silent
from millstream.telemetry import Telemetry, read_settings
from millstream.telemetry.trace_context import is_sampled, trace_id_of
from millstream.testing.collector import Collector, collecting

SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def telemetry(env: dict[str, str] | None = None, **options: Any) -> Telemetry:
    return Telemetry.from_environment(env or {}, **{"stream": io.StringIO(), "strict": True, **options})


async def test_spans_reach_a_collector_with_parents_links_kinds_and_the_service_that_made_them(
    collector: Collector,
) -> None:
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=shop%20one",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,team=a%2Cb",
        }
    )
    with made.span("millstream.http.request", None, service="orders", method="POST", route="/orders") as placed:
        pass
    assert placed is not None
    other = SAMPLED
    with made.linked_span("millstream.batch", [placed, other], service="payments", subscription="charge", messages=2):
        pass
    effect = made.span("millstream.effect", placed, service="notifications", subscription="mail", attempt=1)
    with pytest.raises(TimeoutError), effect:
        raise TimeoutError("smtp://user:hunter22@mail")
    await made.close()

    (path, headers, _) = collector.requests[0]
    assert (path, headers["x-team"], headers["content-encoding"]) == ("/v1/traces", "shop one", "gzip")
    found = collector.spans()
    by_name = {(span.name, span.trace_id.hex()): (resource, span) for resource, span in found}
    resource, request = by_name["POST /orders", trace_id_of(placed)]
    assert (resource["service.name"], resource["team"]) == ("orders", "a,b")
    assert (request.kind, request.parent_span_id) == (request.SPAN_KIND_SERVER, b"")
    assert request.span_id.hex() == placed[36:52]
    assert {a.key: a.value.string_value for a in request.attributes}["http.route"] == "/orders"
    assert 0 < request.start_time_unix_nano <= request.end_time_unix_nano

    resource, mail = by_name["mail", trace_id_of(placed)]
    assert resource["service.name"] == "notifications"
    assert (mail.parent_span_id, mail.kind) == (request.span_id, mail.SPAN_KIND_CLIENT)
    assert mail.status.code == mail.status.STATUS_CODE_ERROR
    assert [(a.key, a.value.string_value) for a in mail.events[0].attributes] == [("exception.type", "TimeoutError")]
    assert b"hunter22" not in collector.requests[0][2].SerializeToString()

    batches = [span for _, span in found if span.name == "charge"]
    root = next(span for span in batches if not span.parent_span_id)
    assert {link.trace_id.hex() for link in root.links} == {trace_id_of(placed), trace_id_of(other)}
    copies = {span.trace_id.hex(): span for span in batches if span.parent_span_id}
    assert copies[trace_id_of(placed)].parent_span_id == request.span_id
    assert copies[trace_id_of(other)].links[0].span_id == root.span_id


async def test_one_order_is_followed_by_its_trace_id_from_http_through_every_event(collector: Collector) -> None:
    made = telemetry({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.address}/v1/traces"})
    with made.span("millstream.http.request", None, service="orders") as context:
        pass
    assert context is not None
    for service in ("orders", "payments", "notifications"):  # each event carries the context of its cause
        with made.linked_span("millstream.batch", [context], service=service, subscription="s"):
            pass
    await made.close()
    assert {resource["service.name"] for resource, _ in collector.spans()} == {"orders", "payments", "notifications"}
    assert {span.trace_id.hex() for _, span in collector.spans()} == {trace_id_of(context)}


async def test_a_reply_of_5xx_is_an_error_and_one_of_4xx_is_not(collector: Collector) -> None:
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address})
    for status in (200, 404, 503):
        with (span := made.span("millstream.http.request", None, route=str(status))):
            span.set(status=status)
    await made.close()
    failed = [span.name for _, span in collector.spans() if span.status.code == span.status.STATUS_CODE_ERROR]
    assert failed == ["? 503"]


async def test_otel_service_name_names_all_spans(collector: Collector) -> None:
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.address}/", "OTEL_SERVICE_NAME": "shop"})
    with made.span("millstream.http.request", SAMPLED, service="orders"):
        pass
    await made.close()
    assert collector.requests[0][0] == "/v1/traces"
    assert [resource["service.name"] for resource, _ in collector.spans()] == ["shop"]


async def test_the_ratio_decides_what_reaches_the_collector(collector: Collector) -> None:
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
        }
    )
    sampled = 0
    for _ in range(1_000):
        with made.span("millstream.http.request", None) as traceparent:
            assert traceparent is not None
            sampled += is_sampled(traceparent)
    await made.close()
    assert len(collector.spans()) == sampled
    assert sampled == pytest.approx(250, abs=70)


async def test_closing_ends_at_its_deadline_when_the_collector_does_not_answer() -> None:
    stream = io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = telemetry(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            },
            stream=stream,
        )
        with made.span("millstream.http.request", None):
            pass
        async with asyncio.timeout(5):
            await made.close(0.05)
        assert json.loads(stream.getvalue())["event"] == "spans_lost"
        with made.span("millstream.http.request", SAMPLED) as traceparent:  # after the close nothing is recorded
            assert traceparent == SAMPLED
        await made.close(0.05)


async def test_everything_is_one_object_behind_the_port() -> None:
    stream = io.StringIO()
    made: Instrumentation = telemetry(stream=stream)
    assert isinstance(made, Telemetry)
    made.count("millstream_relayed_total", (("service", "orders"),), 3)
    made.observe("millstream_batch_seconds", (("service", "orders"), ("subscription", "s")), 0.01)
    made.gauge("millstream_ready", (("service", "orders"),), lambda: 1)
    body, content_type = made.exposition()
    assert b'millstream_relayed_total{service="orders"} 3.0' in body
    assert b'millstream_ready{service="orders"} 1.0' in body
    assert content_type.startswith("text/plain")
    assert made.new_trace() != made.new_trace()
    made.log("info", "started", service="orders", port=8080)
    assert json.loads(stream.getvalue())["port"] == 8080
    await made.close()


def test_a_wrong_name_raises_where_strict_and_is_logged_once_elsewhere() -> None:
    with pytest.raises(Misconfigured):
        telemetry().count("millstream_nothing_total", ())
    stream = io.StringIO()
    lenient = telemetry(stream=stream, strict=False)
    for _ in range(3):
        lenient.count("millstream_nothing_total", ())
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["metric"] == "millstream_nothing_total"


def test_a_lost_line_is_counted() -> None:
    stream = io.StringIO()
    made = telemetry(stream=stream)
    stream.close()
    made.log("error", "nobody_hears")
    assert b'millstream_telemetry_lost_total{what="log_line"} 1.0' in made.exposition()[0]


def test_tracing_switched_off_passes_a_callers_context_on_and_begins_none() -> None:
    made = telemetry({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    for off in (made, Silent()):
        assert off.new_trace() is None
        with (span := off.span("millstream.http.request", SAMPLED)) as traceparent:
            span.set(status=200)
            assert traceparent == SAMPLED
        with off.span("millstream.http.request", None) as traceparent:
            assert traceparent is None
        with off.linked_span("millstream.batch", [SAMPLED]) as traceparent:
            assert traceparent is None


async def test_adopted_logging_is_given_back_by_close() -> None:
    import logging

    stream = io.StringIO()
    made = telemetry(stream=stream)
    before = logging.getLogger().handlers
    made.adopt_logging()
    logging.getLogger("uvicorn.error").warning("a line")
    assert json.loads(stream.getvalue())["message"] == "a line"
    await made.close()
    assert logging.getLogger().handlers is before


@pytest.mark.parametrize(
    ("env", "terminal", "first"),
    [
        ({}, False, "{"),
        ({}, True, "\x1b"),
        ({"NO_COLOR": "1"}, True, "2"),
        ({"MILLSTREAM_LOG_FORMAT": "json"}, True, "{"),
        ({"MILLSTREAM_LOG_FORMAT": "text"}, False, "2"),
    ],
)
def test_the_format_of_logs_follows_the_stream_and_the_environment(env: Any, terminal: bool, first: str) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    class Clock:
        def now_us(self) -> int:
            return 1_700_000_000_000_000

    stream = Stream()
    telemetry(env, stream=stream, clock=Clock()).log("info", "started")
    assert stream.getvalue()[0] == first


def test_all_problems_of_an_environment_are_listed_and_no_secret_among_them() -> None:
    with pytest.raises(Misconfigured) as caught:
        read_settings(
            {
                "MILLSTREAM_LOG_LEVEL": "loud",
                "MILLSTREAM_LOG_FORMAT": "xml",
                "OTEL_TRACES_SAMPLER": "sometimes",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317/hunter2",
                "OTEL_EXPORTER_OTLP_HEADERS": "hunter2",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
                "OTEL_RESOURCE_ATTRIBUTES": "=x",
            }
        )
    assert len(caught.value.problems) == 9
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/base/"}, "http://c:4318/base/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"},
            "https://c/x",
        ),
    ],
)
def test_where_spans_go_follows_the_variables_of_opentelemetry(env: dict[str, str], endpoint: str | None) -> None:
    export = read_settings(env).export
    assert (export.endpoint if export else None) == endpoint


def test_an_exporter_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    monkeypatch.delitem(sys.modules, "millstream.telemetry.otlp", raising=False)
    with pytest.raises(Misconfigured, match="millstream\\[otlp\\]"):
        telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})


def test_telemetry_without_an_exporter_loads_neither_the_sdk_nor_the_prometheus_client() -> None:
    script = (
        "import sys; from millstream.telemetry import Telemetry; t = Telemetry.from_environment({});"
        "t.span('millstream.http.request', None).__enter__(); t.log('info', 'x');"
        "print(sorted(m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus_client', 'google', 'requests'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
