"""Calls inside one process: bytes both ways, the errors and deadlines of gRPC, and no call from inside a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from millstream import Caller, Refused, Service, Tx
from millstream.clock import SystemClock
from millstream.contracts import Contract, RpcError, Status, rpc
from millstream.contracts.dispatch import Dispatcher, RpcBinding
from millstream.contracts.in_process import InProcessChannel
from millstream.delivery.idempotency import IDEMPOTENCY_SCHEMA
from millstream.delivery.outbox import Origin
from millstream.delivery.tx import Query
from millstream.errors import Busy, Conflict, ForeignWait, Misconfigured, StoreUnavailable, Undecodable
from millstream.ids import Ids
from millstream.ports.instrumentation import Silent
from millstream.stores.sqlite import SqliteStore

KERNEL = (files("millstream.delivery") / "sql" / "0001_kernel.sql").read_text()
if "millstream_idempotency" not in KERNEL:
    KERNEL += IDEMPOTENCY_SCHEMA
CLOCK = SystemClock()
ALICE = Caller("alice", ("user",), "acme", "key-1", None, None, "corr-1")


class Stock(Contract, service="shop.v1.Stock"):
    take = rpc("Take", StringValue, Int64Value)
    count = rpc("Count", StringValue, Int64Value)
    who = rpc("Who", StringValue, StringValue)
    wait = rpc("Wait", StringValue, StringValue)
    fail = rpc("Fail", StringValue, StringValue)
    missing = rpc("Missing", StringValue, StringValue)


class Elsewhere(Contract, service="shop.v1.Elsewhere"):
    ask = rpc("Ask", StringValue, StringValue)


class Failures:
    """What `Fail` raises next: a resource, handed in by type."""

    def __init__(self) -> None:
        self.error: BaseException = RuntimeError()


class Log(Silent):
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


def stock_service() -> Service:
    service = Service("stock")

    @service.rpc(Stock.take, idempotent=True)
    async def take(request: StringValue, caller: Caller, tx: Tx) -> Int64Value:
        if request.value == "sold-out":
            raise RpcError(
                Status.FAILED_PRECONDITION,
                "sold out",
                problem="sold-out",
                errors=({"at": "sku", "message": "none left"},),
            )
        await tx.execute("INSERT INTO taken VALUES (?, ?)", request.value, caller.subject)
        if request.value == "unlucky":
            raise Busy("full")
        return Int64Value(value=(await tx.fetch("SELECT count(*) FROM taken"))[0][0])

    @service.rpc(Stock.count)
    async def count(request: StringValue, query: Query) -> Int64Value:
        rows = await query.fetch("SELECT count(*) FROM taken WHERE sku = ?", request.value)
        return Int64Value(value=rows[0][0])

    @service.rpc(Stock.who)
    async def who(request: StringValue, caller: Caller) -> StringValue:
        return StringValue(value=f"{caller.subject} {caller.tenant} {caller.deadline_us} {caller.correlation_id}")

    @service.rpc(Stock.wait)
    async def wait(request: StringValue) -> StringValue:
        await asyncio.Event().wait()
        raise AssertionError

    @service.rpc(Stock.fail)
    async def fail(request: StringValue, failures: Failures) -> StringValue:
        raise failures.error

    return service


class Bench:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.log = Log()
        self.failures = Failures()
        dispatcher = Dispatcher(CLOCK, self.log)
        service = stock_service()
        dispatcher.serve(RpcBinding("stock", service.methods, store, Origin("stock", Ids()), {Failures: self.failures}))
        self.channel = InProcessChannel(dispatcher, CLOCK, self.log)
        self.stock = Stock(self.channel)

    async def error(self, error: BaseException) -> RpcError:
        self.failures.error = error
        with pytest.raises(RpcError) as caught:
            await self.stock.fail(StringValue(), caller=ALICE)
        return caught.value


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with SqliteStore(tmp_path / "stock.db") as store:
        await store.script(KERNEL + "CREATE TABLE taken (sku TEXT, subject TEXT);")
        yield Bench(store)


async def test_a_call_passes_messages_and_commits(bench: Bench) -> None:
    assert (await bench.stock.take(StringValue(value="tea"), caller=ALICE)).value == 1
    assert (await bench.stock.count(StringValue(value="tea"), caller=ALICE)).value == 1


async def test_repeats_under_one_key_get_equal_bytes_also_at_once(bench: Bench) -> None:
    request = StringValue(value="tea").SerializeToString()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(bench.channel.call("shop.v1.Stock", "Take", request, ALICE, 5.0)) for _ in range(50)]
    assert {task.result() for task in asked} == {Int64Value(value=1).SerializeToString()}
    assert await bench.store.query("SELECT count(*) FROM taken") == [(1,)]
    with pytest.raises(RpcError) as caught:
        await bench.stock.take(StringValue(value="coffee"), caller=ALICE)
    assert (caught.value.status, caught.value.problem) == (Status.INVALID_ARGUMENT, "idempotency-key-reused")


async def test_a_final_refusal_is_stored_whole_and_a_passing_one_is_not(bench: Bench) -> None:
    errors: list[RpcError] = []
    for _ in range(2):
        with pytest.raises(RpcError) as caught:
            await bench.stock.take(StringValue(value="sold-out"), caller=ALICE)
        errors.append(caught.value)
    assert vars(errors[0]) == vars(errors[1])
    assert errors[1].errors == ({"at": "sku", "message": "none left"},)
    assert await bench.store.query("SELECT count(*) FROM millstream_idempotency") == [(1,)]
    with pytest.raises(RpcError) as caught:
        await bench.stock.take(StringValue(value="unlucky"), caller=Caller("bob", idempotency_key="k"))
    assert (caught.value.status, caught.value.retry_after) == (Status.UNAVAILABLE, 1.0)
    assert await bench.store.query("SELECT count(*) FROM millstream_idempotency") == [(1,)]


async def test_an_idempotent_method_without_a_key_is_refused(bench: Bench) -> None:
    with pytest.raises(RpcError) as caught:
        await bench.stock.take(StringValue(value="tea"), caller=Caller("alice"))
    assert (caught.value.status, caught.value.problem) == (Status.INVALID_ARGUMENT, "idempotency-key-missing")


async def test_errors_cross_as_bytes_never_as_objects(bench: Bench) -> None:
    raised = RpcError(
        Status.NOT_FOUND, "no ☕", problem="gone", errors=({"at": "a[0]", "message": "x"},), retry_after=2.5
    )
    seen = await bench.error(raised)
    assert seen is not raised
    assert vars(seen) == vars(raised)
    assert seen.__cause__ is None


@pytest.mark.parametrize(
    ("error", "status", "problem"),
    [
        (Refused("no"), Status.FAILED_PRECONDITION, "refused"),
        (Undecodable("x", "y"), Status.INVALID_ARGUMENT, "undecodable"),
        (Conflict("UNIQUE constraint failed: secret.column"), Status.ABORTED, "conflict"),
        (Busy("full"), Status.UNAVAILABLE, "busy"),
        (StoreUnavailable("/var/secret.db"), Status.UNAVAILABLE, "store-unavailable"),
        (TimeoutError("secret"), Status.DEADLINE_EXCEEDED, "deadline-exceeded"),
        (Misconfigured("secret"), Status.INTERNAL, ""),
        (RuntimeError("secret"), Status.INTERNAL, ""),
    ],
)
async def test_each_error_has_its_status(bench: Bench, error: Exception, status: int, problem: str) -> None:
    seen = await bench.error(error)
    assert (seen.status, seen.problem) == (status, problem)
    assert "secret" not in seen.message
    failed = [fields["error"] for event, fields in bench.log.lines if event == "rpc_failed"]
    assert failed == ([type(error).__name__] if status == Status.INTERNAL else [])


async def test_the_sooner_of_timeout_and_callers_deadline_counts_and_travels_on(bench: Bench) -> None:
    async def deadline(caller: Caller, timeout: float) -> int:
        said = (await bench.stock.who(StringValue(), caller=caller, timeout=timeout)).value.split()
        assert said[:2] + said[3:] == ["alice", "acme", "corr-1"]
        return int(said[2])

    now = CLOCK.now_us()
    soon = Caller("alice", tenant="acme", deadline_us=now + 2_000_000, correlation_id="corr-1")
    assert await deadline(soon, 10.0) == now + 2_000_000
    assert now + 1_000_000 <= await deadline(soon, 1.0) < now + 2_000_000
    assert now + 10_000_000 <= await deadline(ALICE, 10.0)


async def test_a_call_that_takes_too_long_is_cancelled(bench: Bench) -> None:
    with pytest.raises(RpcError) as caught:
        await bench.stock.wait(StringValue(), caller=ALICE, timeout=0.02)
    assert caught.value.status == Status.DEADLINE_EXCEEDED


async def test_a_deadline_that_is_over_does_no_work(bench: Bench) -> None:
    late = Caller("alice", idempotency_key="k", deadline_us=CLOCK.now_us() - 1)
    with pytest.raises(RpcError) as caught:
        await bench.stock.take(StringValue(value="tea"), caller=late)
    assert caught.value.status == Status.DEADLINE_EXCEEDED
    assert await bench.store.query("SELECT count(*) FROM taken") == [(0,)]


async def test_a_cancellation_from_outside_stays_one(bench: Bench) -> None:
    async def call() -> None:
        await bench.stock.wait(StringValue(), caller=ALICE)

    task = asyncio.get_running_loop().create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_calls_that_nobody_serves(bench: Bench) -> None:
    with pytest.raises(RpcError) as caught:
        await bench.stock.missing(StringValue(), caller=ALICE)
    assert caught.value.status == Status.UNIMPLEMENTED
    with pytest.raises(RpcError) as caught:
        await Elsewhere(bench.channel).ask(StringValue(), caller=ALICE)
    assert caught.value.status == Status.UNAVAILABLE


async def test_bytes_that_are_no_request_are_refused(bench: Bench) -> None:
    with pytest.raises(RpcError) as caught:
        await bench.channel.call("shop.v1.Stock", "Count", b"\xff\xff", ALICE, 1.0)
    assert caught.value.status == Status.INVALID_ARGUMENT


async def test_a_call_from_inside_a_transaction_is_refused_with_its_line(bench: Bench) -> None:
    async def work(session: object) -> None:
        await bench.stock.count(StringValue(), caller=ALICE)

    with pytest.raises(ForeignWait, match=r"test_contracts_in_process.py:\d+ \(a call of shop.v1.Stock/Count\)"):
        await bench.store.transact(work)


async def test_methods_that_cannot_be_served_are_named_all_at_once(bench: Bench) -> None:
    service = Service("wrong")

    @service.rpc(Stock.take, idempotent=True)
    async def take(request: StringValue, failures: Failures) -> Int64Value: ...

    @service.rpc(Stock.count)
    async def count(tx: Tx, elsewhere: Elsewhere) -> Int64Value: ...

    resources = {Elsewhere: Elsewhere(bench.channel)}
    binding = RpcBinding("wrong", service.methods, bench.store, Origin("wrong", Ids()), resources)
    with pytest.raises(Misconfigured) as caught:
        Dispatcher(CLOCK, Silent()).serve(binding)
    text = "\n".join(caught.value.problems)
    for part in ("nobody provides failures: Failures", "take a Tx", "takes no StringValue", "takes a Tx and Elsewhere"):
        assert part in text


async def test_a_wrong_kind_of_response_is_our_failure(bench: Bench) -> None:
    service = Service("wrong")

    @service.rpc(Stock.count)
    async def count(request: StringValue) -> Int64Value:
        return "three"  # type: ignore[return-value] - what a user's mistake looks like

    dispatcher = Dispatcher(CLOCK, bench.log)
    dispatcher.serve(RpcBinding("wrong", service.methods, bench.store, Origin("wrong", Ids()), {}))
    with pytest.raises(RpcError) as caught:
        await Stock(InProcessChannel(dispatcher, CLOCK, Silent())).count(StringValue(), caller=ALICE)
    assert caught.value.status == Status.INTERNAL
