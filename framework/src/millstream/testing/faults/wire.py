"""The proxy's process: one listener, one server behind it, and the faults between them. Told what to do by lines of JSON.

It is a process of its own so that neither the test's event loop nor its interpreter's lock changes when bytes pass, and
so that a worker forked from the test holds none of its sockets open.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
from contextlib import suppress
from typing import Literal, final

import msgspec

from .plan import Episode

__all__ = ["Order", "Passed", "serve"]

PIECE_BYTES = 65_536
TORN_BYTES = 400
"""A torn connection still carries up to so many bytes."""
_RESET = struct.pack("ii", 1, 0)


class Order(msgspec.Struct, frozen=True):
    """`begin` and `end` of an episode, or `count`."""

    do: Literal["begin", "end", "count"]
    episode: Episode | None = None


class Passed(msgspec.Struct, frozen=True):
    """What the proxy has seen so far. cut: connections that it ended, or kept silent for good."""

    connections: int = 0
    cut: int = 0
    to_server_bytes: int = 0
    to_client_bytes: int = 0


Direction = Literal["up", "down"]
_HELD: dict[str, frozenset[Direction]] = {
    "silent": frozenset({"up", "down"}),
    "deaf": frozenset({"up"}),
    "mute": frozenset({"down"}),
}


@final
class _Connection:
    """One client's connection and the one to the server. dead: carries nothing any more, and nobody is told."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.dead = False
        self.left_bytes: int | None = None

    def reset(self) -> None:
        for writer in self.writers:
            connected: socket.socket | None = writer.get_extra_info("socket")
            if connected is not None:
                with suppress(OSError):
                    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


@final
class _Proxy:
    def __init__(self, port: int, upstream: tuple[str, int], seed: int) -> None:
        self._port = port
        self._upstream = upstream
        self._dice = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._episode: Episode | None = None
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._opened = self._cut = 0
        self._bytes: dict[Direction, int] = {"up": 0, "down": 0}

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=512)

    def passed(self) -> Passed:
        return Passed(self._opened, self._cut, self._bytes["up"], self._bytes["down"])

    async def begin(self, episode: Episode) -> None:
        self._episode = episode
        there = list(self._connections)
        match episode.kind:
            case "reset" | "refuse":
                if episode.kind == "refuse" and self._server is not None:
                    self._server.close()
                    self._server = None
                self._end_all(there, abruptly=True)
            case "close":
                self._end_all(there, abruptly=False)
            case "torn":
                for connection in there:
                    connection.left_bytes = self._dice.randint(1, TORN_BYTES)
            case "half-open":
                self._cut += len(there)
                for connection in there:
                    connection.dead = True
            case _:
                pass
        self._change()

    async def end(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and episode.kind in ("deaf", "mute"):
            self._end_all(list(self._connections), abruptly=True)
        for connection in self._connections:
            connection.left_bytes = None
        if self._server is None:
            await self.listen()
        self._change()

    def _end_all(self, connections: list[_Connection], *, abruptly: bool) -> None:
        self._cut += len(connections)
        for connection in connections:
            connection.dead = True
            if abruptly:
                connection.reset()
            else:
                connection.close()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()  # what a server that is down looks like from behind a router
            return
        for one in (writer, upstream):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(writer, upstream)
        self._opened += 1
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, reader, upstream, "up"))
                pumps.create_task(self._pump(connection, upstream_reader, writer, "down"))
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await self._hold(connection, direction)
                await self._pass_on(connection, writer, data, direction)
            await self._hold(connection, direction)
            writer.write_eof()

    async def _hold(self, connection: _Connection, direction: Direction) -> None:
        """Until data may pass."""
        while connection.dead or (
            self._episode is not None and direction in _HELD.get(self._episode.kind, frozenset[Direction]())
        ):
            if connection.dead and connection.writers[0].is_closing():
                raise ConnectionResetError
            await self._changed.wait()

    async def _pass_on(
        self, connection: _Connection, writer: asyncio.StreamWriter, data: bytes, direction: Direction
    ) -> None:
        episode = self._episode
        kind = episode.kind if episode is not None else ""
        if episode is not None and kind == "delay":
            await asyncio.sleep(episode.latency_seconds)
        elif episode is not None and kind == "slow":
            await asyncio.sleep(len(data) / episode.bytes_per_second)
        elif connection.left_bytes is not None:
            torn = len(data) >= connection.left_bytes
            data = data[: connection.left_bytes]
            connection.left_bytes -= len(data)
            if torn:
                writer.write(data)
                await writer.drain()
                self._end_all([connection], abruptly=True)
                raise ConnectionResetError
        for piece in self._pieces(data) if kind == "slice" else (data,):
            writer.write(piece)
            await writer.drain()
            if kind == "slice":
                await asyncio.sleep(0)  # each piece is a packet of its own
        self._bytes[direction] += len(data)

    def _pieces(self, data: bytes) -> list[bytes]:
        # The head of a large piece is enough: the boundaries of messages are near it.
        found, at = list[bytes](), 0
        while at < min(len(data), 2_000):
            size = self._dice.randint(1, 7)
            found.append(data[at : at + size])
            at += size
        return [*found, data[at:]] if at < len(data) else found


async def serve(port: int, host: str, upstream_port: int, seed: int) -> None:
    """Until standard input ends. Each order is answered by one line once it holds."""
    proxy = _Proxy(port, (host, upstream_port), seed)
    await proxy.listen()
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    _answer(proxy.passed())
    while line := await orders.readline():
        order = msgspec.json.decode(line, type=Order)
        if order.do == "begin" and order.episode is not None:
            await proxy.begin(order.episode)
        elif order.do == "end":
            await proxy.end()
        _answer(proxy.passed())


def _answer(passed: Passed) -> None:
    sys.stdout.write(msgspec.json.encode(passed).decode() + "\n")
    sys.stdout.flush()
