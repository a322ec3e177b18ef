"""What a route's parameters are filled with, and what is refused when the application is built."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

import msgspec
import pytest
from millstream import Service, Tx
from millstream.clock import SystemClock
from millstream.contracts import Contract
from millstream.delivery.outbox import Origin
from millstream.delivery.tx import Query
from millstream.errors import Misconfigured
from millstream.http import Address, Caller, Headers, Problem
from millstream.http.app import HttpBinding, build_app
from millstream.http.limits import Limits
from millstream.http.parameters import Plan, plan_route
from millstream.http.requests import Incoming
from millstream.http.routing import RouteTable
from millstream.ids import Ids
from millstream.ports.instrumentation import Silent
from millstream.ports.store import Store
from millstream.service.route import Route


class NoStore:
    async def query(self, sql: str, *params: Any) -> list[Any]:
        return [(sql, *params)]


class Body(msgspec.Struct):
    name: str


class Gate:
    """A resource."""


class Stock(Contract, service="shop.v1.Stock"):
    """A contract."""


STORE = cast(Store, NoStore())
GATE = Gate()
STOCK = Stock(cast(Any, None))
RESOURCES: dict[type[Any], object] = {Gate: GATE, Stock: STOCK}


def plan(handler: Callable[..., Awaitable[Any]], method: str = "POST", path: str = "/x", **options: Any) -> Plan:
    return plan_route(Route(method, path, handler, **options), STORE, RESOURCES, Limits())


def fill(planned: Plan, *values: str, query: bytes = b"", headers: dict[bytes, bytes] | None = None) -> list[Any]:
    scope = {"query_string": query, "client": ("192.0.2.1", 1)}
    return [f(Incoming(scope, headers or {}, values, Caller("alice"))) for f in planned.fills]


async def test_everything_arrives_by_its_type() -> None:
    async def handler(
        caller: Caller,
        gate: Gate,
        stock: Stock,
        headers: Headers,
        address: Address,
        query: Query,
        order_id: str,
        n: int,
        page: int = 1,
    ) -> None: ...

    planned = plan(handler, "GET", "/orders/{n}/{order_id}")
    filled = fill(planned, "7", "o1", query=b"page=3", headers={b"x-a": b"b"})
    assert filled[:3] == [Caller("alice"), GATE, STOCK]
    assert (filled[3].get("X-A"), filled[3].get("x-b"), filled[4]) == ("b", None, "192.0.2.1")
    assert await filled[5].fetch_one("SELECT 1", 2) == ("SELECT 1", 2)
    assert filled[6:] == ["o1", 7, 3]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (str, "a%20b+c", "a b c"), (int, "-5", -5), (float, "1.5", 1.5), (bool, "true", True),
        (dt.date, "2026-07-01", dt.date(2026, 7, 1)), (Literal["a", "b"], "b", "b"), (int | None, "4", 4),
        (list[int], "4", [4]),
    ],
)  # fmt: skip
def test_query_parameters_have_scalar_types(kind: Any, text: str, value: Any) -> None:
    async def handler(q: Any) -> None: ...

    handler.__annotations__["q"] = kind
    assert fill(plan(handler, "GET"), query=f"q={text}".encode()) == [value]
    with pytest.raises(Problem) as caught:
        fill(plan(handler, "GET"))
    assert caught.value.errors[0].message == "is required"


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        (int, b"q=x"), (int, b"q="), (int, b"q=1&q=2"), (int, b"q=" + b"9" * 20), (float, b"q=nan"), (float, b"q=inf"),
        (bool, b"q=maybe"), (Literal["a"], b"q=b"), (str, b"q=%00"), (list[int], b"q=1&q=x"),
    ],
)  # fmt: skip
def test_query_parameters_that_do_not_fit_are_a_422(kind: Any, query: bytes) -> None:
    async def handler(q: Any) -> None: ...

    handler.__annotations__["q"] = kind
    with pytest.raises(Problem) as caught:
        fill(plan(handler, "GET"), query=query)
    assert caught.value.status == 422
    assert caught.value.errors[0].at == "query.q"


@pytest.mark.parametrize("query", [b"q=%ff", b"\xff", b"&".join([b"a=1"] * 65)])
def test_queries_that_cannot_be_read_are_a_400(query: bytes) -> None:
    async def handler(q: str = "") -> None: ...

    with pytest.raises(Problem) as caught:
        fill(plan(handler, "GET"), query=query)
    assert caught.value.status == 400


@pytest.mark.parametrize("segment", ["x", "1.5", "9" * 30, "１"])
def test_a_segment_that_is_no_number_is_a_404(segment: str) -> None:
    async def handler(n: int) -> None: ...

    with pytest.raises(Problem) as caught:
        fill(plan(handler, "GET", "/{n}"), segment)
    assert caught.value.status == 404


async def no_tx(body: Body) -> None: ...
async def two_bodies(a: Body, b: bytes) -> None: ...
async def with_body(body: Body) -> None: ...
async def unknown(thing: object) -> None: ...
async def tx_and_query(tx: Tx, query: Query) -> None: ...
async def tx_and_contract(tx: Tx, stock: Stock) -> None: ...
async def with_tx(tx: Tx) -> None: ...
async def nothing() -> None: ...


class Missing(Contract, service="shop.v1.Missing"):
    """Nobody serves it."""


async def missing(other: Missing) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "says"),
    [
        (two_bodies, {}, "two bodies"),
        (with_body, {"method": "GET"}, "which GET does not carry"),
        (with_body, {"method": "DELETE"}, "which DELETE does not carry"),
        (unknown, {}, "nobody provides thing: object"),
        (missing, {}, "nobody provides the contract Missing"),
        (tx_and_query, {}, "takes Tx and Query"),
        (tx_and_contract, {}, "takes a Tx and Stock"),
        (no_tx, {"idempotent": True}, "take a Tx, or pass the key on"),
        (with_tx, {"idempotent": True, "forwards_key": True}, "whose work another service does"),
        (nothing, {"forwards_key": True}, "without idempotent=True"),
        (nothing, {"public": True, "roles": ("a",)}, "is public and asks for roles"),
        (nothing, {"path": "x"}, "begins with /"),
        (nothing, {"path": "/{id}"}, "{id} is no parameter"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(handler: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(Misconfigured, match=r"test_http_parameters\.py") as caught:
        plan(handler, **options)
    assert says in str(caught.value)


def test_all_problems_of_all_routes_are_named_at_once() -> None:
    service = Service("shop")
    service.post("/a")(unknown)
    service.post("/b", idempotent=True)(no_tx)
    service.get("/c")(missing)
    with pytest.raises(Misconfigured) as caught:
        build([service])
    assert len(caught.value.problems) == 3


def test_a_path_is_served_once_and_private_routes_need_authentication() -> None:
    service, other = Service("shop"), Service("other")
    for s in (service, other):
        s.get("/a/{order_id}", public=True)(_by_id)
    with pytest.raises(Misconfigured, match=r"GET /a/\{order_id\}: two routes serve it"):
        build([service, other])
    private = Service("private")
    private.get("/b")(nothing)
    with pytest.raises(Misconfigured, match="no authentication is configured"):
        build([private])


async def _by_id(order_id: str) -> None: ...


def build(services: list[Service]) -> Any:
    bindings = [HttpBinding(s.name, s.routes, STORE, Origin(s.name, Ids()), RESOURCES) for s in services]
    return build_app(bindings, authenticate=None, clock=SystemClock(), ids=Ids(), instrumentation=Silent())


def test_fixed_segments_win_from_the_left() -> None:
    table: RouteTable[str] = RouteTable()
    paths = ("/a/{x}/c", "/{x}/b/c", "/a/b/{x}", "/{x}/{y}/{z}", "/a/b/c", "/{x}/b/{z}", "/", "/a.b/{x}")
    for path in paths:
        table.add("GET", path, path)
    for path, target, values in (
        ("/a/b/c", "/a/b/c", ()), ("/a/b/z", "/a/b/{x}", ("z",)), ("/a/z/c", "/a/{x}/c", ("z",)),
        ("/z/b/c", "/{x}/b/c", ("z",)), ("/z/b/z", "/{x}/b/{z}", ("z", "z")), ("/z/z/z", "/{x}/{y}/{z}", ("z", "z", "z")),
        ("/", "/", ()), ("/a.b/1", "/a.b/{x}", ("1",)),
    ):  # fmt: skip
        assert table.find(path) == ({"GET": target}, values)
    for path in ("/axb/1", "/a/b/", "//b/c", "/a", ""):
        assert table.find(path) is None


@pytest.mark.parametrize("path", ["/a{b}", "/{a}b", "/{}", "/{a-b}", "/{a", "/a}", "/{a}{b}"])
def test_a_parameter_is_a_whole_segment(path: str) -> None:
    with pytest.raises(Misconfigured, match="whole segment"):
        RouteTable[str]().add("GET", path, "")
