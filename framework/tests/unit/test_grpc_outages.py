"""A service that is away: what has not left waits for it, what has a key is sent again, nothing is done twice."""

from __future__ import annotations

import asyncio
import select
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from millstream import Caller
from millstream.contracts import RpcError, Status

from .grpc_bench import ALICE, Bench, Stock, benched, done, error_of

NO_KEY = Caller("bob")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as made:
        yield made


class CutOnce(socketserver.ThreadingTCPServer):
    """A TCP proxy in threads, which cuts its first connection when it is told to, and leaves the later ones."""

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Carrying)
        self.target = target
        self.cut = threading.Event()
        self.gone = threading.Event()
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]


class _Carrying(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        proxy, client = cast(CutOnce, self.server), self.request
        first = not proxy.cut.is_set()
        with suppress(OSError), socket.create_connection(("127.0.0.1", proxy.target)) as server:
            other = {client: server, server: client}
            while not (proxy.closing.is_set() or (first and proxy.cut.is_set())):
                for source in select.select([client, server], [], [], 0.01)[0]:
                    data = source.recv(65_536)
                    if not data:
                        return
                    other[source].sendall(data)

    def finish(self) -> None:
        self.request.close()
        if cast(CutOnce, self.server).cut.is_set():
            cast(CutOnce, self.server).gone.set()


@contextmanager
def cutting(target: int) -> Iterator[CutOnce]:
    with CutOnce(target) as proxy:  # leaving it waits for its threads
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()


async def test_a_call_that_may_have_left_is_sent_again_only_with_a_key(bench: Bench) -> None:
    for caller, calls in ((ALICE, 2), (NO_KEY, 1)):
        bench.inside.calls = 0
        bench.inside.arrived.clear()
        bench.inside.go_on.clear()
        with cutting(bench.server.port) as proxy:
            channel = bench.channel(proxy.port)
            async with asyncio.TaskGroup() as group:
                call = group.create_task(_outcome(Stock(channel).wait(StringValue(), caller=caller)))
                await bench.inside.arrived.wait()
                proxy.cut.set()
                await asyncio.to_thread(proxy.gone.wait, 10)
                bench.inside.go_on.set()
            if calls == 2:
                assert call.result() == "done"
            else:
                assert isinstance(error := call.result(), RpcError)
                assert (error.status, error.problem) == (Status.UNAVAILABLE, "service-unavailable")
            assert bench.inside.calls == calls
            await channel.aclose()


async def test_a_call_waits_for_a_service_that_is_being_started(bench: Bench) -> None:
    port = bench.server.port
    channel = bench.channel(port)
    await Stock(channel).who(StringValue(), caller=NO_KEY)
    await bench.server.close(0)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(done(Stock(channel).who(StringValue(), caller=NO_KEY)))
        await asyncio.sleep(0.3)
        assert not call.done()
        bench.server = bench.new_server()
        await bench.server.start("127.0.0.1", port)
    assert call.result().value == "bob"
    assert len(bench.inside.callers) == 2


async def test_a_service_that_stays_away_is_unavailable_in_bounded_time_and_nothing_was_done(bench: Bench) -> None:
    await bench.server.close(0)
    loop = asyncio.get_running_loop()
    for caller, timeout, limit in ((ALICE, 0.3, 1.0), (NO_KEY, 10.0, 5.0)):
        began = loop.time()
        error = await error_of(Stock(bench.channel()).take(StringValue(value="pen"), caller=caller, timeout=timeout))
        assert (error.status, error.problem) == (Status.UNAVAILABLE, "service-unavailable")
        assert error.retry_after is not None
        assert loop.time() - began < limit
    assert bench.inside.calls == 0


async def test_calls_under_way_are_answered_when_the_server_stops(bench: Bench) -> None:
    stock = Stock(bench.channel())
    async with asyncio.TaskGroup() as group:
        under_way = group.create_task(done(stock.wait(StringValue(), caller=NO_KEY)))
        await bench.inside.arrived.wait()
        await bench.server.drain()
        closing = group.create_task(bench.server.close(5.0))
        await asyncio.sleep(0.1)
        assert not closing.done()
        bench.inside.go_on.set()
    assert under_way.result().value == "done"


async def test_calls_that_outlast_the_stop_are_cancelled(bench: Bench) -> None:
    stock = Stock(bench.channel())
    async with asyncio.TaskGroup() as group:
        under_way = group.create_task(_outcome(stock.wait(StringValue(), caller=NO_KEY)))
        await bench.inside.arrived.wait()
        await bench.server.close(0.1)
    assert isinstance(under_way.result(), RpcError)
    assert bench.inside.cancelled.is_set()


async def test_workers_take_calls_in_turn_and_one_that_drains_gets_none(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    async with benched(tmp_path / "second") as second:
        stock = Stock(bench.channel(bench.server.port, second.server.port))

        async def both() -> bool:
            await stock.who(StringValue(), caller=NO_KEY)
            return bool(bench.inside.callers and second.inside.callers)

        await _until(both)
        await second.server.drain()

        async def only_the_first() -> bool:
            second.inside.callers.clear()
            for _ in range(20):
                await stock.who(StringValue(), caller=NO_KEY)
            return not second.inside.callers

        await _until(only_the_first)
        await second.server.close(0)
        for _ in range(50):
            await stock.who(StringValue(), caller=NO_KEY)


async def test_serving_says_whether_a_service_answers(bench: Bench) -> None:
    channel = bench.channel()
    assert await channel.serving(Stock.service)
    await bench.server.drain()
    assert not await channel.serving(Stock.service)
    await bench.server.close(0)
    assert not await channel.serving(Stock.service)


async def _outcome(call: Awaitable[StringValue]) -> str | Exception:
    try:
        return (await call).value
    except RpcError as error:
        return error


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - what it asks is on the other side of a socket
            await asyncio.sleep(0.01)
