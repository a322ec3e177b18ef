"""Calls over gRPC are those of one process: the same bytes, callers, errors and deadlines. Real sockets, real SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from millstream import Caller
from millstream.contracts import RpcError, Status
from millstream.contracts.in_process import InProcessChannel
from millstream.errors import Busy, Conflict, ForeignWait, Refused, StoreUnavailable
from millstream.grpc.server import ServerOptions

from .grpc_bench import ALICE, CLOCK, Bench, Stock, benched, done, error_of

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as made:
        yield made


async def test_a_call_brings_its_answer_and_a_repeat_brings_the_stored_one(bench: Bench) -> None:
    stock = Stock(bench.channel())
    first = await stock.take(StringValue(value="pen"), caller=ALICE)
    again = await stock.take(StringValue(value="pen"), caller=ALICE)
    assert (first.value, again.value, bench.inside.calls) == (1, 1, 1)
    assert await bench.store.query("SELECT * FROM taken") == [("pen", "älice")]


async def test_the_caller_arrives_as_the_edge_knew_them(bench: Bench) -> None:
    caller = Caller("älice", ("user", "operator"), "äcme", "key 1", None, TRACE, "corr-1")
    await Stock(bench.channel()).who(StringValue(), caller=caller, timeout=5.0)
    [arrived] = bench.inside.callers
    assert arrived.deadline_us is not None
    assert 0 < arrived.deadline_us - CLOCK.now_us() <= 5_000_000
    assert arrived == Caller(
        caller.subject, caller.roles, caller.tenant, caller.idempotency_key, arrived.deadline_us, TRACE, "corr-1"
    )
    assert ("millstream.contract.serve", TRACE) in bench.spans.parents


async def test_a_caller_who_is_nobody_stays_nobody(bench: Bench) -> None:
    await Stock(bench.channel()).who(StringValue(), caller=Caller(""))
    assert (bench.inside.callers[0].subject, bench.inside.callers[0].idempotency_key) == ("", None)


@pytest.mark.parametrize(
    "error",
    [
        Refused("the shop is closed ☹"),
        Conflict("row"),
        Busy("full"),
        StoreUnavailable("disk"),
        RuntimeError("secret"),
        RpcError(Status.NOT_FOUND, "no pen"),
        RpcError(
            Status.INVALID_ARGUMENT, "wrong", problem="invalid-request",
            errors=tuple({"at": f"lines[{n}]", "message": "must be at least 1"} for n in range(200)),
        ),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_an_error_is_the_same_as_in_one_process(bench: Bench, error: Exception) -> None:
    bench.inside.error = error
    here = await error_of(
        Stock(InProcessChannel(bench.dispatcher, CLOCK, bench.spans)).fail(StringValue(), caller=ALICE)
    )
    there = await error_of(Stock(bench.channel()).fail(StringValue(), caller=ALICE))
    assert vars(there) == vars(here)
    # What the service itself says is the caller's to decide about, key or not: it is not tried again behind their back.
    assert bench.inside.calls == 2


async def test_too_many_places_of_an_error_are_left_out_and_the_error_arrives(bench: Bench) -> None:
    places = tuple({"at": f"lines[{n}]", "message": "must be at least 1"} for n in range(20_000))
    bench.inside.error = RpcError(Status.INVALID_ARGUMENT, "wrong", problem="invalid-request", errors=places)
    error = await error_of(Stock(bench.channel()).fail(StringValue(), caller=ALICE))
    assert (error.status, error.message, error.problem) == (Status.INVALID_ARGUMENT, "wrong", "invalid-request")
    assert error.errors == ()


async def test_a_deadline_ends_the_waiting_here_and_the_work_there(bench: Bench) -> None:
    error = await error_of(Stock(bench.channel()).wait(StringValue(), caller=ALICE, timeout=0.2))
    assert (error.status, error.problem) == (Status.DEADLINE_EXCEEDED, "deadline-exceeded")
    async with asyncio.timeout(5):
        await bench.inside.cancelled.wait()


async def test_the_callers_own_deadline_counts_when_it_is_nearer(bench: Bench) -> None:
    hurried = Caller("ann", deadline_us=CLOCK.now_us() + 200_000)
    error = await error_of(Stock(bench.channel()).wait(StringValue(), caller=hurried, timeout=60))
    assert error.status == Status.DEADLINE_EXCEEDED
    late = Caller("ann", deadline_us=CLOCK.now_us() - 1)
    error = await error_of(Stock(bench.channel()).wait(StringValue(), caller=late))
    assert error.status == Status.DEADLINE_EXCEEDED
    assert bench.inside.calls == 1


async def test_a_caller_that_is_cancelled_cancels_the_work(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(done(Stock(bench.channel()).wait(StringValue(), caller=ALICE)))
        await bench.inside.arrived.wait()
        task.cancel()
    async with asyncio.timeout(5):
        await bench.inside.cancelled.wait()


async def test_a_call_from_inside_a_transaction_is_refused(bench: Bench) -> None:
    stock = Stock(bench.channel())

    async def work(session: object) -> None:
        await stock.who(StringValue(), caller=ALICE)

    with pytest.raises(ForeignWait, match=r"test_grpc_calls\.py"):
        await bench.store.transact(work)
    assert bench.inside.callers == []


async def test_a_contract_without_an_address_and_a_method_nobody_serves_are_said_to_be_so(bench: Bench) -> None:
    channel = bench.channel()
    error = await error_of(channel.call("shop.v1.Elsewhere", "Ask", b"", ALICE, 1))
    assert (error.status, "no address" in error.message) == (Status.UNAVAILABLE, True)
    error = await error_of(channel.call("shop.v1.Stock", "Missing", b"", ALICE, 1))
    assert error.status == Status.UNIMPLEMENTED


async def test_a_body_at_the_limit_of_the_edge_passes_and_a_larger_one_does_not(bench: Bench) -> None:
    stock = Stock(bench.channel())
    largest = "x" * 1_048_576
    assert (await stock.echo(StringValue(value=largest), caller=ALICE)).value == largest
    error = await error_of(stock.echo(StringValue(value=largest * 2), caller=ALICE))
    assert error.status == Status.RESOURCE_EXHAUSTED


async def test_more_calls_at_once_than_allowed_are_refused_and_not_queued(bench: Bench) -> None:
    server = bench.new_server(options=ServerOptions(in_flight=1))
    await server.start("127.0.0.1", 0)
    try:
        stock = Stock(bench.channel(server.port))
        async with asyncio.TaskGroup() as group:
            under_way = group.create_task(done(stock.wait(StringValue(), caller=ALICE)))
            await bench.inside.arrived.wait()
            assert server.in_flight == 1
            error = await error_of(stock.who(StringValue(), caller=ALICE))
            assert (error.status, error.problem, error.retry_after) == (Status.UNAVAILABLE, "busy", 1.0)
            bench.inside.go_on.set()
        assert under_way.result().value == "done"
    finally:
        await server.close(0)
