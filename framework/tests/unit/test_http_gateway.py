"""A route that passes its key on to the service that owns the work, which answers in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from millstream import Service, Tx
from millstream.clock import SystemClock
from millstream.contracts import Contract, RpcError, Status, rpc
from millstream.contracts.dispatch import Dispatcher, RpcBinding
from millstream.contracts.in_process import InProcessChannel
from millstream.delivery.idempotency import IDEMPOTENCY_SCHEMA
from millstream.delivery.outbox import Origin
from millstream.http import Caller, Created
from millstream.http.app import HttpApp, HttpBinding, build_app
from millstream.ids import Ids
from millstream.ports.instrumentation import Silent
from millstream.stores.sqlite import SqliteStore

KERNEL = (files("millstream.delivery") / "sql" / "0001_kernel.sql").read_text()
if "millstream_idempotency" not in KERNEL:
    KERNEL += IDEMPOTENCY_SCHEMA
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Orders(Contract, service="shop.v1.Orders"):
    place = rpc("Place", StringValue, Int64Value)


class NewOrder(msgspec.Struct):
    sku: str


class Placed(msgspec.Struct):
    number: int


class System:
    """Two services of one process; `seen` is who the second one was called by."""

    def __init__(self, orders_store: SqliteStore, gateway_store: SqliteStore) -> None:
        self.seen: list[Caller] = []
        self.store = orders_store
        orders, gateway, clock, ids = Service("orders"), Service("gateway"), SystemClock(), Ids()

        @orders.rpc(Orders.place, idempotent=True)
        async def place(request: StringValue, caller: Caller, tx: Tx) -> Int64Value:
            self.seen.append(caller)
            if request.value == "sold-out":
                errors = ({"at": "sku", "message": "none left"},)
                raise RpcError(Status.FAILED_PRECONDITION, "sold out", problem="out-of-stock", errors=errors)
            await tx.execute("INSERT INTO orders (sku) VALUES (?)", request.value)
            return Int64Value(value=(await tx.fetch("SELECT count(*) FROM orders"))[0][0])

        @gateway.post("/orders", idempotent=True, forwards_key=True, public=True)
        async def post(body: NewOrder, caller: Caller, orders: Orders) -> Created[Placed]:
            placed = await orders.place(StringValue(value=body.sku), caller=caller)
            return Created(Placed(placed.value), location=f"/orders/{placed.value}")

        dispatcher = Dispatcher(clock, Silent())
        dispatcher.serve(RpcBinding("orders", orders.methods, orders_store, Origin("orders", ids), {}))
        client = Orders(InProcessChannel(dispatcher, clock, Silent()))
        binding = HttpBinding("gateway", gateway.routes, gateway_store, Origin("gateway", ids), {Orders: client})
        self.app: HttpApp = build_app([binding], authenticate=None, clock=clock, ids=ids, instrumentation=Silent())

    async def post(self, sku: str, key: str | None = "k", **headers: str) -> tuple[int, dict[str, str], Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": msgspec.json.encode(NewOrder(sku)), "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        given = {**headers, **({"idempotency-key": key} if key is not None else {})}
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/orders",
            "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
        }
        await self.app(scope, receive, send)
        replied = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], replied, sent[1]["body"]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with SqliteStore(tmp_path / "orders.db") as orders, SqliteStore(tmp_path / "gateway.db") as gateway:
        await orders.script(KERNEL + "CREATE TABLE orders (sku TEXT);")
        yield System(orders, gateway)


async def test_twins_at_the_gateway_do_one_piece_of_work_behind_it(system: System) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(system.post("tea")) for _ in range(100)]
    replies = {(status, headers["location"], body) for status, headers, body in (task.result() for task in asked)}
    assert replies == {(201, "/orders/1", b'{"number":1}')}
    assert len(system.seen) == 1


async def test_key_deadline_trace_and_correlation_travel_on(system: System) -> None:
    await system.post("tea", traceparent=TRACE, x_request_id="corr-1", x_request_timeout="2")
    caller = system.seen[0]
    assert (caller.idempotency_key, caller.traceparent, caller.correlation_id) == ("k", TRACE, "corr-1")
    assert caller.deadline_us is not None


async def test_what_the_service_refuses_is_a_problem_at_the_edge(system: System) -> None:
    first = await system.post("sold-out")
    assert first[0] == 409
    assert msgspec.json.decode(first[2]) == {
        "type": "/problems/out-of-stock",
        "title": "Out of stock",
        "status": 409,
        "detail": "sold out",
        "errors": [{"at": "sku", "message": "none left"}],
    }
    assert (await system.post("sold-out"))[2] == first[2]
    assert len(system.seen) == 1


async def test_the_key_is_judged_where_the_work_is(system: System) -> None:
    await system.post("tea")
    assert (await system.post("coffee"))[0] == 422
    assert (await system.post("coffee", key=None))[0] == 400
    assert len(system.seen) == 1
