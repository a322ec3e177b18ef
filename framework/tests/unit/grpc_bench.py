"""One service on real SQLite behind a real gRPC server on loopback, and channels to it: what the tests of gRPC share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from millstream import Caller, Service, Tx
from millstream.clock import SystemClock
from millstream.contracts import Contract, RpcError, Status, rpc
from millstream.contracts.dispatch import Dispatcher, RpcBinding
from millstream.delivery.idempotency import IDEMPOTENCY_SCHEMA
from millstream.delivery.outbox import Origin
from millstream.errors import MillstreamError
from millstream.grpc.channel import GrpcChannel
from millstream.grpc.passport import SharedKey, Trust
from millstream.grpc.server import GrpcServer, ServerOptions
from millstream.grpc.tls import Certificates
from millstream.http.auth import Unauthenticated
from millstream.ids import Ids, SystemEntropy
from millstream.ports.instrumentation import Silent
from millstream.stores.sqlite import SqliteStore

KERNEL = (files("millstream.delivery") / "sql" / "0001_kernel.sql").read_text()
KEY = SharedKey(b"k" * 32)
CLOCK = SystemClock()
DEFAULTS = ServerOptions()
ALICE = Caller("älice", ("user", "operator"), "acme", "key-1", None, None, "corr-1")


class Stock(Contract, service="shop.v1.Stock"):
    take = rpc("Take", StringValue, Int64Value)
    who = rpc("Who", StringValue, StringValue)
    wait = rpc("Wait", StringValue, StringValue)
    echo = rpc("Echo", StringValue, StringValue)
    fail = rpc("Fail", StringValue, StringValue)


class Inside:
    """What tests look at and decide: a resource of the service, handed in by type."""

    def __init__(self) -> None:
        self.error: BaseException = RuntimeError()
        self.calls = 0
        self.callers: list[Caller] = []
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()


def stock_service() -> Service:
    service = Service("stock")

    @service.rpc(Stock.take, idempotent=True)
    async def take(request: StringValue, caller: Caller, tx: Tx, inside: Inside) -> Int64Value:
        inside.calls += 1
        if request.value == "sold-out":
            places = ({"at": "sku", "message": "none left ☹"},)
            raise RpcError(Status.FAILED_PRECONDITION, "sold out ☹", problem="sold-out", errors=places)
        await tx.execute("INSERT INTO taken VALUES (?, ?)", request.value, caller.subject)
        return Int64Value(value=(await tx.fetch("SELECT count(*) FROM taken"))[0][0])

    @service.rpc(Stock.who)
    async def who(request: StringValue, caller: Caller, inside: Inside) -> StringValue:
        inside.callers.append(caller)
        return StringValue(value=caller.subject)

    @service.rpc(Stock.wait)
    async def wait(request: StringValue, inside: Inside) -> StringValue:
        inside.calls += 1
        inside.arrived.set()
        try:
            await inside.go_on.wait()
        except asyncio.CancelledError:
            inside.cancelled.set()
            raise
        return StringValue(value="done")

    @service.rpc(Stock.echo)
    async def echo(request: StringValue) -> StringValue:
        return request

    @service.rpc(Stock.fail)
    async def fail(request: StringValue, inside: Inside) -> StringValue:
        inside.calls += 1
        raise inside.error

    return service


class Spans(Silent):
    """Notes the parents that spans were given."""

    def __init__(self) -> None:
        self.parents: list[tuple[str, str | None]] = []

    def span(self, name: str, parent: str | None, **attributes: Any) -> Any:
        self.parents.append((name, parent))
        return super().span(name, parent, **attributes)


class Bench:
    """A server, and what is needed to make channels to it."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.inside = Inside()
        self.spans = Spans()
        self.dispatcher = Dispatcher(CLOCK, self.spans)
        methods = stock_service().methods
        self.dispatcher.serve(RpcBinding("stock", methods, store, Origin("stock", Ids()), {Inside: self.inside}))
        self.server = self.new_server()
        self._channels: list[GrpcChannel] = []

    def new_server(
        self, trust: Trust = KEY, certificates: Certificates | None = None, options: ServerOptions = DEFAULTS
    ) -> GrpcServer:
        return GrpcServer(self.dispatcher, trust, self._authenticate, CLOCK, certificates=certificates, options=options)

    def channel(
        self, *ports: int, trust: Trust = KEY, certificates: Certificates | None = None, host: str = "127.0.0.1"
    ) -> GrpcChannel:
        addresses = [f"{host}:{port}" for port in ports or (self.server.port,)]
        channel = GrpcChannel(
            {Stock.service: addresses}, trust, CLOCK, SystemEntropy(), self.spans, certificates=certificates
        )
        self._channels.append(channel)
        return channel

    async def _authenticate(self, token: str) -> Caller:
        subject, _, roles = token.partition("|")
        if not subject:
            raise Unauthenticated("no such token")
        return Caller(subject, tuple(roles.split(",")))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.aclose()
        await self.server.close(0)


@asynccontextmanager
async def benched(folder: Path) -> AsyncIterator[Bench]:
    async with SqliteStore(folder / "stock.db") as store:
        schema = KERNEL if "millstream_idempotency" in KERNEL else KERNEL + IDEMPOTENCY_SCHEMA
        await store.script(schema + "CREATE TABLE taken (sku TEXT, subject TEXT);")
        bench = Bench(store)
        await bench.server.start("127.0.0.1", 0)
        try:
            yield bench
        finally:
            await bench.close()


async def done(call: Awaitable[Any]) -> Any:
    """A call as a coroutine, for a task."""
    return await call


async def error_of(call: Any) -> Any:
    """What a call raises."""
    try:
        await call
    except MillstreamError as error:
        return error
    raise AssertionError("it succeeded")
