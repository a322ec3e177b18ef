"""The bounds of the edge, each driven over it, by calling the application as a server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream import Caller, Service
from millstream.clock import SystemClock
from millstream.delivery.outbox import Origin
from millstream.http.app import HttpApp, HttpBinding, build_app
from millstream.http.limits import Limits, client_timeout
from millstream.http.problems import Problem
from millstream.ids import Ids
from millstream.ports.instrumentation import Silent
from millstream.ports.store import Store

JSON = [(b"content-type", b"application/json"), (b"content-length", b"2")]


class NoStore:
    """For routes that touch no database."""

    async def query(self, sql: str, *params: Any) -> list[Any]:
        raise AssertionError("no route of this test reads")


class Gate:
    """Holds a handler until the test opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.full = asyncio.Event()
        self.entered = 0


class Counts(Silent):
    def __init__(self) -> None:
        self.counted: dict[tuple[str, Any], int] = {}
        self.gauges: dict[str, Callable[[], float]] = {}

    def count(self, metric: str, labels: Any, amount: int = 1) -> None:
        self.counted[metric, labels] = self.counted.get((metric, labels), 0) + amount

    def gauge(self, metric: str, labels: Any, read: Callable[[], float]) -> None:
        self.gauges[metric] = read


def app_with(gate: Gate, limits: Limits, counts: Silent | None = None) -> HttpApp:
    service = Service("echo")

    @service.post("/echo", public=True)
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @service.get("/wait", public=True)
    async def wait(gate: Gate) -> str:
        gate.entered += 1
        if gate.entered == 2:
            gate.full.set()
        await gate.open.wait()
        return "done"

    @service.get("/caller", public=True)
    async def caller(caller: Caller) -> Caller:
        return caller

    binding = HttpBinding("echo", service.routes, cast(Store, NoStore()), Origin("echo", Ids()), {Gate: gate})
    return build_app(
        [binding], authenticate=None, clock=SystemClock(), ids=Ids(), instrumentation=counts or Silent(), limits=limits
    )


async def ask(
    app: HttpApp,
    method: str,
    path: str,
    body: bytes | list[dict[str, Any]] = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    query: bytes = b"",
) -> tuple[int, dict[bytes, bytes], Any]:
    """One request, given to the application as an ASGI server would. `body` may be the server's messages."""
    messages = body if isinstance(body, list) else [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "query_string": query, "headers": headers or [],
        "client": ("192.0.2.1", 4711), "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    if not sent:
        return 0, {}, None
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.parametrize(
    ("headers", "path", "query", "status"),
    [
        ([(b"x", b"y")] * 64, "/caller", b"", 200),
        ([(b"x", b"y")] * 65, "/caller", b"", 431),
        ([(b"x", b"y" * 16_383)], "/caller", b"", 200),
        ([(b"x", b"y" * 16_384)], "/caller", b"", 431),
        ([], "/" + "a" * 2_047, b"", 404),
        ([], "/" + "a" * 2_048, b"", 414),
        ([], "/caller", b"a" * 4_096, 200),
        ([], "/caller", b"a" * 4_097, 414),
        ([], "/caller\x00", b"", 400),
        ([], "/caller\n", b"", 400),
        ([(b"authorization", b"a"), (b"authorization", b"b")], "/caller", b"", 400),
        ([(b"idempotency-key", b"a"), (b"idempotency-key", b"b")], "/caller", b"", 400),
        ([(b"cookie", b"a"), (b"cookie", b"b")], "/caller", b"", 200),
    ],
)
async def test_heads_are_bounded(headers: Any, path: str, query: bytes, status: int) -> None:
    assert (await ask(app_with(Gate(), Limits()), "GET", path, headers=headers, query=query))[0] == status


def chunks(*parts: bytes, end: bool = True) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False} if end else {"type": "http.disconnect"})
    return messages


async def test_bodies_are_counted_as_they_arrive() -> None:
    app = app_with(Gate(), Limits(body_bytes=10))
    kind = [(b"content-type", b"application/json")]
    assert (await ask(app, "POST", "/echo", chunks(b'{"a"', b":1", b"}"), kind))[2] == b'{"a":1}'
    assert (await ask(app, "POST", "/echo", chunks(b'{"a":', b" " * 6), kind))[0] == 413
    assert (await ask(app, "POST", "/echo", b"{" + b" " * 10, kind))[0] == 413
    for announced in (b"11", b"9" * 5000, b"-1", b"x"):
        assert (await ask(app, "POST", "/echo", b"{}", [*kind, (b"content-length", announced)]))[0] == 413
    assert (await ask(app, "POST", "/echo", b"{}", [*kind, (b"content-encoding", b"gzip")]))[0] == 415


async def test_a_body_that_is_missing_is_asked_for() -> None:
    app = app_with(Gate(), Limits())
    assert (await ask(app, "POST", "/echo"))[0] == 411
    assert (await ask(app, "POST", "/echo", headers=[(b"content-length", b"0")]))[0] == 400


async def test_a_client_that_leaves_gets_no_reply_and_holds_no_place() -> None:
    app = app_with(Gate(), Limits())
    assert await ask(app, "POST", "/echo", chunks(b"{", end=False)) == (0, {}, None)
    assert app.admission.in_flight == 0


async def test_beyond_its_places_the_edge_sheds_and_says_when_to_come_back() -> None:
    gate, counts = Gate(), Counts()
    app = app_with(gate, Limits(in_flight=2, retry_after_seconds=3), counts)
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(ask(app, "GET", "/wait")) for _ in range(2)]
        await gate.full.wait()
        assert counts.gauges["millstream_http_in_flight"]() == 2
        status, headers, body = await ask(app, "GET", "/wait")
        assert (status, headers[b"retry-after"]) == (503, b"3")
        assert msgspec.json.decode(body)["type"] == "/problems/busy"
        gate.open.set()
    assert [task.result()[0] for task in held] == [200, 200]
    assert (await ask(app, "GET", "/wait"))[0] == 200
    assert counts.counted["millstream_http_shed_total", (("service", "http"),)] == 1


async def test_work_that_takes_too_long_is_cancelled_with_a_504() -> None:
    app = app_with(Gate(), Limits(request_seconds=0.02))
    status, _, body = await ask(app, "GET", "/wait")
    assert (status, msgspec.json.decode(body)["type"]) == (504, "/problems/deadline-exceeded")
    assert app.admission.in_flight == 0


async def test_a_client_that_sends_too_slowly_gets_a_408() -> None:
    app = app_with(Gate(), Limits(request_seconds=0.02))
    status, headers, _ = await ask(
        app, "POST", "/echo", [{"type": "http.request", "body": b"{", "more_body": True}], JSON
    )
    assert (status, headers[b"connection"]) == (408, b"close")


async def test_the_clients_own_deadline_bounds_the_work_and_travels_on() -> None:
    app, clock = app_with(Gate(), Limits()), SystemClock()
    assert (await ask(app, "GET", "/wait", headers=[(b"x-request-timeout", b"0.02")]))[0] == 504
    _, _, body = await ask(app, "GET", "/caller", headers=[(b"grpc-timeout", b"2S")])
    assert 0 < msgspec.json.decode(body, type=Caller).deadline_us - clock.now_us() <= 2_000_000  # pyright: ignore[reportOptionalOperand]
    assert msgspec.json.decode((await ask(app, "GET", "/caller"))[2], type=Caller).deadline_us is None


async def test_a_deadline_that_is_over_is_a_504_without_work() -> None:
    gate = Gate()
    app = app_with(gate, Limits())
    for late in (b"0", b"0.0", b"-1"):
        assert (await ask(app, "GET", "/wait", headers=[(b"x-request-timeout", late)]))[0] == 504
    assert (await ask(app, "GET", "/wait", headers=[(b"grpc-timeout", b"0n")]))[0] == 504
    assert gate.entered == 0


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (b"x-request-timeout", b"2.5", 2.5), (b"x-request-timeout", b"10", 10.0), (b"grpc-timeout", b"1H", 3600.0),
        (b"grpc-timeout", b"3M", 180.0), (b"grpc-timeout", b"250m", 0.25), (b"grpc-timeout", b"5u", 5e-6),
        (b"accept", b"x", None),
    ],
)  # fmt: skip
def test_both_forms_of_a_timeout_are_read(name: bytes, value: bytes, seconds: float | None) -> None:
    assert client_timeout({name: value}) == pytest.approx(seconds)


@given(st.binary(max_size=20), st.sampled_from([b"x-request-timeout", b"grpc-timeout"]))
def test_a_strange_timeout_is_a_400(value: bytes, name: bytes) -> None:
    refused = 0
    seconds = None
    try:
        seconds = client_timeout({name: value})
    except Problem as problem:
        refused = problem.status
    assert refused in (0, 400)
    assert seconds is None or 0 <= seconds < 1e12


async def test_a_trace_and_a_correlation_are_taken_over_when_they_are_well_formed() -> None:
    app = app_with(Gate(), Limits())
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = [(b"traceparent", trace), (b"x-request-id", b"order-7")]
    caller = msgspec.json.decode((await ask(app, "GET", "/caller", headers=sent))[2], type=Caller)
    assert (caller.traceparent, caller.correlation_id) == (trace.decode(), "order-7")
    for odd in (b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"xx", b"\xff", trace.upper(), trace + b"\n"):
        sent = [(b"traceparent", odd), (b"x-request-id", b"\r\nx: y")]
        caller = msgspec.json.decode((await ask(app, "GET", "/caller", headers=sent))[2], type=Caller)
        assert caller.traceparent is None
        assert len(caller.correlation_id or "") == 32


async def test_requests_are_counted_by_route_and_class_of_status() -> None:
    counts = Counts()
    app = app_with(Gate(), Limits(), counts)
    await ask(app, "POST", "/echo", b"{}", JSON)
    await ask(app, "POST", "/echo", b"[]", JSON)
    labels = (("service", "echo"), ("method", "POST"), ("route", "/echo"))
    for status in ("2xx", "4xx"):
        assert counts.counted["millstream_http_requests_total", (*labels, ("status", status))] == 1


async def test_the_lifespan_of_a_server_is_acknowledged() -> None:
    messages, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app_with(Gate(), Limits())({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
