"""The edge over a real socket: uvicorn in front, SQLite behind, aiohttp as the client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import uvicorn
from millstream import Event, Refused, Service, Tx
from millstream.clock import SystemClock
from millstream.delivery.idempotency import IDEMPOTENCY_SCHEMA
from millstream.delivery.outbox import Origin
from millstream.delivery.tx import Query
from millstream.http import Address, Caller, Created, Headers, Problem, Reply
from millstream.http.app import HttpApp, HttpBinding, build_app
from millstream.http.auth import BearerTokens
from millstream.http.development import development_key, issue_token
from millstream.http.documents import Document, document
from millstream.http.keys import StaticKeys
from millstream.http.limits import Limits
from millstream.ids import Ids
from millstream.ports.instrumentation import Silent
from millstream.stores.sqlite import SqliteStore

KERNEL = (files("millstream.delivery") / "sql" / "0001_kernel.sql").read_text()
if "millstream_idempotency" not in KERNEL:
    KERNEL += IDEMPOTENCY_SCHEMA
SCHEMA = KERNEL + "CREATE TABLE orders (id TEXT PRIMARY KEY, owner TEXT NOT NULL, quantity INTEGER NOT NULL);"
CLOCK = SystemClock()


class NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    sku: str
    quantity: int


class Order(msgspec.Struct):
    id: str
    quantity: int


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    quantity: int


def orders_service() -> Service:
    service = Service("orders")
    ids = Ids()

    @service.post("/orders", idempotent=True)
    async def place(body: NewOrder, caller: Caller, tx: Tx) -> Created[Order]:
        order = Order(ids.new(), body.quantity)
        await tx.execute("INSERT INTO orders VALUES (?, ?, ?)", order.id, caller.subject, order.quantity)
        tx.publish(OrderPlaced(order.id, order.quantity))
        if body.sku == "sold-out":
            raise Refused("sold out")
        if body.sku == "broken":
            raise RuntimeError("a secret of the inside")
        return Created(order, location=f"/orders/{order.id}")

    @service.get("/orders/{order_id}")
    async def read(order_id: str, query: Query) -> Order:
        row = await query.fetch_one("SELECT id, quantity FROM orders WHERE id = ?", order_id)
        if row is None:
            raise Problem(404, "no such order")
        return Order(*row)

    @service.get("/orders")
    async def find(query: Query, least: int = 0, tag: list[str] = []) -> dict[str, Any]:  # noqa: B006 - read only
        rows = await query.fetch("SELECT id FROM orders WHERE quantity >= ? ORDER BY id", least)
        return {"orders": [row[0] for row in rows], "tag": tag}

    @service.delete("/orders/{order_id}", roles=("admin",))
    async def remove(order_id: str, tx: Tx) -> None:
        await tx.execute("DELETE FROM orders WHERE id = ?", order_id)

    @service.post("/echo", public=True)
    async def echo(raw: bytes, headers: Headers, address: Address, caller: Caller) -> Reply[str]:
        return Reply(
            f"{len(raw)} {headers.get('X-Signature')} {address} [{caller.subject}]",
            headers={"Content-Type": "text/plain"},
        )

    return service


class Running:
    """An application behind a real server, and a client of it."""

    def __init__(
        self, app: HttpApp, store: SqliteStore, base: str, session: aiohttp.ClientSession, tokens: Any
    ) -> None:
        self.app = app
        self.store = store
        self.base = base
        self.session = session
        self.token = tokens

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "",
        key: str | None = None,
        headers: Any = None,
        **options: Any,
    ) -> tuple[int, Any, bytes]:
        sent = dict(headers or {})
        if token is not None:
            sent["authorization"] = f"Bearer {token or self.token('alice')}"
        if key is not None:
            sent["idempotency-key"] = key
        async with self.session.request(method, self.base + path, headers=sent, **options) as reply:
            return reply.status, reply.headers, await reply.read()

    async def count(self, table: str) -> int:
        return (await self.store.query(f"SELECT count(*) FROM {table}"))[0][0]


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def running(folder: Path, service: Service, limits: Limits = Limits()) -> AsyncIterator[Running]:  # noqa: B008
    key = development_key(folder / "key.pem")

    def token(subject: str, roles: tuple[str, ...] = ()) -> str:
        return issue_token(key, subject, roles, clock=CLOCK)

    async with SqliteStore(folder / "orders.db") as store:
        await store.script(SCHEMA)
        ids = Ids()
        app = build_app(
            [HttpBinding("orders", service.routes, store, Origin("orders", ids), {})],
            authenticate=BearerTokens(StaticKeys([key.verifying()]), CLOCK),
            clock=CLOCK, ids=ids, instrumentation=Silent(), limits=limits,
            extra_routes=[document("/health/live", lambda: Document(b"ok", "text/plain"))],
        )  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(app, log_config=None, loop="asyncio", http="httptools", lifespan="on")
            server = _Server(config)
            server.capture_signals = nullcontext  # pyright: ignore[reportAttributeAccessIssue] - the test owns them
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve([listener]))
                await server.up.wait()
                base = f"http://127.0.0.1:{listener.getsockname()[1]}"
                try:
                    connector = aiohttp.TCPConnector(limit=0)
                    async with aiohttp.ClientSession(connector=connector) as session:
                        yield Running(app, store, base, session, token)
                finally:
                    server.should_exit = True


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, orders_service()) as run:
        yield run


ORDER = {"sku": "tea", "quantity": 2}


async def test_an_order_is_stored_with_its_event_and_can_be_read_back(shop: Running) -> None:
    status, headers, body = await shop.ask("POST", "/orders", key="k", json=ORDER)
    assert (status, headers["content-type"]) == (201, "application/json")
    order = msgspec.json.decode(body)
    assert headers["location"] == f"/orders/{order['id']}"
    assert await shop.count("millstream_outbox") == 1
    status, headers, body = await shop.ask("GET", headers["location"])
    assert (status, msgspec.json.decode(body)) == (200, order)
    assert headers["cache-control"] == "no-store"


async def test_a_hundred_twins_at_once_get_one_reply_and_do_one_piece_of_work(shop: Running) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(shop.ask("POST", "/orders", key="twin", json=ORDER)) for _ in range(100)]
    replies = [task.result() for task in asked]
    assert {(status, body) for status, _, body in replies} == {(201, replies[0][2])}
    assert len({headers["location"] for _, headers, _ in replies}) == 1
    assert sum("idempotent-replayed" in headers for _, headers, _ in replies) == 99
    assert [await shop.count(t) for t in ("orders", "millstream_outbox", "millstream_idempotency")] == [1, 1, 1]


async def test_the_stored_reply_is_given_again_later(shop: Running) -> None:
    first = await shop.ask("POST", "/orders", key="k", json=ORDER)
    again = await shop.ask("POST", "/orders", key="k", json=ORDER)
    assert (again[0], again[2], again[1]["idempotent-replayed"]) == (first[0], first[2], "true")
    assert again[1]["location"] == first[1]["location"]


async def test_another_body_under_the_same_key_is_refused(shop: Running) -> None:
    await shop.ask("POST", "/orders", key="k", json=ORDER)
    status, _, body = await shop.ask("POST", "/orders", key="k", json={**ORDER, "quantity": 3})
    assert status == 422
    assert msgspec.json.decode(body)["type"] == "/problems/idempotency-key-reused"
    assert await shop.count("orders") == 1


async def test_two_callers_may_use_the_same_key(shop: Running) -> None:
    await shop.ask("POST", "/orders", key="k", json=ORDER)
    status, headers, _ = await shop.ask("POST", "/orders", key="k", json=ORDER, token=shop.token("bob"))
    assert status == 201
    assert "idempotent-replayed" not in headers


async def test_a_refusal_undoes_the_work_and_is_stored(shop: Running) -> None:
    sold_out = {"sku": "sold-out", "quantity": 1}
    first = await shop.ask("POST", "/orders", key="k", json=sold_out)
    again = await shop.ask("POST", "/orders", key="k", json=sold_out)
    assert (first[0], again[0]) == (409, 409)
    assert first[2] == again[2]
    assert again[1]["idempotent-replayed"] == "true"
    assert [await shop.count(t) for t in ("orders", "millstream_outbox", "millstream_idempotency")] == [0, 0, 1]


async def test_a_failure_of_ours_says_nothing_of_its_inside_and_is_not_stored(shop: Running) -> None:
    status, headers, body = await shop.ask("POST", "/orders", key="k", json={"sku": "broken", "quantity": 1})
    assert status == 500
    assert b"secret" not in body
    assert headers["content-type"] == "application/problem+json"
    assert [await shop.count(t) for t in ("orders", "millstream_idempotency")] == [0, 0]


@pytest.mark.parametrize("key", [None, "", "a" * 256, "k\u00e9y"])
async def test_a_missing_or_odd_key_is_a_400_that_names_the_header(shop: Running, key: str | None) -> None:
    status, _, body = await shop.ask("POST", "/orders", key=key, json=ORDER)
    assert status == 400
    assert "Idempotency-Key" in msgspec.json.decode(body)["detail"]


async def test_places_of_a_body_that_does_not_fit_are_named(shop: Running) -> None:
    status, _, body = await shop.ask("POST", "/orders", key="k", json={"sku": "tea", "quantity": "two"})
    problem = msgspec.json.decode(body)
    assert (status, problem["status"]) == (422, 422)
    assert problem["errors"] == [{"at": "quantity", "message": "expected `int`, got `str`"}]


async def test_query_parameters_are_converted_and_judged(shop: Running) -> None:
    await shop.ask("POST", "/orders", key="k", json=ORDER)
    assert len(msgspec.json.decode((await shop.ask("GET", "/orders?least=2&tag=a&tag=b"))[2])["orders"]) == 1
    assert msgspec.json.decode((await shop.ask("GET", "/orders?least=3&tag=a&tag=b"))[2]) == {
        "orders": [],
        "tag": ["a", "b"],
    }
    for query in ("least=x", "least=1&least=2", "least=" + "9" * 30):
        status, _, body = await shop.ask("GET", f"/orders?{query}")
        assert status == 422
        assert msgspec.json.decode(body)["errors"][0]["at"] == "query.least"


async def test_private_routes_ask_for_a_token_and_roles(shop: Running) -> None:
    status, headers, _ = await shop.ask("GET", "/orders", token=None)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    status, headers, _ = await shop.ask("GET", "/orders", token="nonsense")
    assert status == 401
    assert 'error="invalid_token"' in headers["www-authenticate"]
    assert (await shop.ask("DELETE", "/orders/x"))[0] == 403
    assert (await shop.ask("DELETE", "/orders/x", token=shop.token("root", ("admin",))))[0] == 204


async def test_a_public_route_takes_raw_bodies_headers_and_no_token(shop: Running) -> None:
    given = {"x-signature": "s1", "content-type": "application/octet-stream"}
    status, headers, body = await shop.ask("POST", "/echo", token=None, data=b"\xff\x00", headers=given)
    assert (status, headers["content-type"], body) == (200, "text/plain", b"2 s1 127.0.0.1 []")
    assert (await shop.ask("POST", "/echo", data=b""))[2].endswith(b"[alice]")
    assert (await shop.ask("POST", "/echo", token="bad", data=b""))[0] == 401


async def test_methods_and_paths_that_are_not_served(shop: Running) -> None:
    status, headers, _ = await shop.ask("PATCH", "/orders")
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    status, headers, _ = await shop.ask("OPTIONS", "/orders")
    assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    status, headers, body = await shop.ask("HEAD", "/orders")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0
    for path in ("/nowhere", "/orders/", "/orders/a/b", "/orders/a%2Fb"):
        assert (await shop.ask("GET", path))[0] == 404
    assert (await shop.ask("GET", "/orders/a%00b"))[0] == 400


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-8", 201), ("application/vnd.shop+json", 201), ("APPLICATION/JSON", 201),
    ],
)  # fmt: skip
async def test_typed_bodies_are_json_in_utf8(shop: Running, kind: str, status: int) -> None:
    given = {"content-type": kind}
    assert (await shop.ask("POST", "/orders", key=kind, data=b'{"sku":"a","quantity":1}', headers=given))[0] == status


async def test_a_body_over_the_limit_is_refused_also_without_a_length(tmp_path: Path) -> None:
    async with running(tmp_path, orders_service(), Limits(body_bytes=1000)) as shop:
        given = {"content-type": "application/json"}

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b" " * 100

        for data in (b" " * 1001, chunks()):
            status, headers, _ = await shop.ask("POST", "/orders", key="k", data=data, headers=given)
            assert (status, headers["connection"]) == (413, "close")
        assert (await shop.ask("POST", "/orders", key="k", headers=given))[0] in (400, 411)


async def test_while_draining_every_reply_closes_its_connection(shop: Running) -> None:
    assert "connection" not in (await shop.ask("GET", "/orders"))[1]
    shop.app.state.draining = True
    for path in ("/orders", "/health/live", "/nowhere"):
        assert (await shop.ask("GET", path))[1]["connection"] == "close"


async def test_a_request_id_is_kept_or_made(shop: Running) -> None:
    assert (await shop.ask("GET", "/orders", headers={"x-request-id": "abc-1"}))[1]["x-request-id"] == "abc-1"
    made = (await shop.ask("GET", "/orders", headers={"x-request-id": "no spaces allowed"}))[1]["x-request-id"]
    assert len(made) == 32


async def test_mounted_documents_need_no_token(shop: Running) -> None:
    status, headers, body = await shop.ask("GET", "/health/live", token=None)
    assert (status, body) == (200, b"ok")
    assert headers["content-type"].startswith("text/plain")
