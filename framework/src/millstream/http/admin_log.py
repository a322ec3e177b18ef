"""Admin endpoints over the log: topics, tail, publish. See `admin.py` for the table."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import PositionGone, Undecodable
from ..message import EventType, Message, Record, decode_message, encode_message, format_time, partition_of
from ..ports.transport import Bounds
from .admin_system import AdminSystem, Endpoint, body_of, query_of, reply
from .problems import Problem

__all__ = ["ENDPOINTS"]

SOURCE = "/operator"
"""Source of what an operator publishes by hand."""
PAGE = 200


class _TailQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """`from`: earliest or now. Without `follow` the stream ends where the topic ended when it began."""

    topic: str
    start: Literal["earliest", "now"] = "now"
    follow: bool = True
    key: str | None = None
    type: str | None = None
    limit: int | None = None


class _Publish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is needed where the event declares none; `unchecked` lets a type pass that no service declares."""

    topic: str
    type: str
    data: msgspec.Raw
    version: int | None = None
    key: str | None = None
    tenant: str | None = None
    unchecked: bool = False


# -- topics ----------------------------------------------------------------------------------------------------------


async def _topics(system: AdminSystem, _: Request) -> Response:
    found: list[dict[str, Any]] = []
    for use in system.topics:
        count = await system.transport.partitions(use.topic)
        partitions = [await system.transport.bounds(use.topic, n) for n in range(count or 0)]
        found.append(
            {
                "topic": use.topic,
                "provisioned": count is not None,
                "partitions": partitions,
                "events": [f"{declared.name}.v{declared.version}" for declared in use.events],
                "publishers": use.publishers,
                "subscriptions": [f"{service}/{name}" for service, name in use.subscriptions],
            }
        )
    return reply({"topics": found})


async def _partition_count(system: AdminSystem, topic: str) -> int:
    count = await system.transport.partitions(topic)
    if count is None:
        known = ", ".join(use.topic for use in system.topics)
        raise Problem(404, f"topic {topic!r} is not provisioned; the services use: {known}")
    return count


# -- tail ------------------------------------------------------------------------------------------------------------


async def _tail(system: AdminSystem, request: Request) -> Response:
    query = query_of(request, _TailQuery)
    count = await _partition_count(system, query.topic)
    bounds = [await system.transport.bounds(query.topic, n) for n in range(count)]
    return _Tail(system, query, bounds)


class _Tail(Response):
    """Reads all partitions side by side; ends when the reader goes, the process stops, or the limit is reached."""

    media_type = "application/x-ndjson"

    def __init__(self, system: AdminSystem, query: _TailQuery, bounds: list[Bounds]) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]  # a stream has none
        self._system = system
        self._query = query
        self._bounds = bounds
        self._left = query.limit
        self._done = asyncio.Event()
        # One write at a time: what one partition reads waits here, so a slow reader slows the reading.
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async with asyncio.TaskGroup() as group:
            partitions = [
                group.create_task(self._read(partition, bounds, send)) for partition, bounds in enumerate(self._bounds)
            ]
            watchers = [group.create_task(self._until_gone(receive)), group.create_task(self._until_stopped())]
            end = group.create_task(self._until_read(partitions))
            await self._done.wait()
            for task in (*partitions, *watchers, end):
                task.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, partition: int, bounds: Bounds, send: Send) -> None:
        query = self._query
        after = bounds.latest if query.start == "now" else bounds.earliest
        if not query.follow and after >= bounds.latest:
            return
        reader = self._system.transport.read(query.topic, partition, after)
        try:
            while True:
                records = await reader.next(PAGE)
                lines = [line for record in records if (line := self._line(partition, record)) is not None]
                await self._write(lines, send)
                if not query.follow and records[-1].position >= bounds.latest:
                    return
        except PositionGone as error:
            await self._write([msgspec.json.encode({"partition": partition, "error": str(error)})], send)
        finally:
            await reader.aclose()

    async def _write(self, lines: list[bytes], send: Send) -> None:
        async with self._turn:
            if self._left is not None:
                lines = lines[: self._left]
                self._left -= len(lines)
            if lines:
                await send({"type": "http.response.body", "body": b"\n".join(lines) + b"\n", "more_body": True})
            if self._left == 0:
                self._done.set()

    def _line(self, partition: int, record: Record) -> bytes | None:
        query = self._query
        if query.key is not None and record.key != query.key:
            return None
        entry: dict[str, Any] = {
            "topic": query.topic,
            "partition": partition,
            "position": record.position,
            "key": record.key,
        }
        try:
            message = decode_message(record.value)
        except Undecodable as error:
            if query.type is not None:
                return None
            return msgspec.json.encode({**entry, "undecodable": str(error), "size_bytes": len(record.value)})
        if query.type is not None and message.type != query.type:
            return None
        return msgspec.json.encode({**entry, "message": msgspec.Raw(record.value)})

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._done.set()

    async def _until_stopped(self) -> None:
        await self._system.stopping.wait()
        self._done.set()

    async def _until_read(self, partitions: list[asyncio.Task[None]]) -> None:
        await asyncio.wait(partitions)
        self._done.set()


# -- publish ---------------------------------------------------------------------------------------------------------


async def _publish(system: AdminSystem, request: Request) -> Response:
    asked = await body_of(request, _Publish)
    count = await _partition_count(system, asked.topic)
    key, version = _checked(system, asked)
    message = Message(
        id=system.ids.new(),
        source=SOURCE,
        type=asked.type,
        time=format_time(system.clock.now_us()),
        data=asked.data,
        subject=key,
        datacontenttype="application/json",
        dataversion=version,
        tenant=asked.tenant,
    )
    partition = partition_of(message.lane, count)
    durable = await system.transport.publish(asked.topic, partition, [Record(encode_message(message), key)])
    if durable != 1:
        raise Problem(503, "the log did not confirm the record; publishing again may repeat it")
    return reply({"id": message.id, "topic": asked.topic, "partition": partition, "key": key}, 201)


def _checked(system: AdminSystem, asked: _Publish) -> tuple[str | None, int]:
    """Key and version of what is published; a problem where it is not what its declaration says."""
    declared = [event for use in system.topics if use.topic == asked.topic for event in use.events]
    of_type = [event for event in declared if event.name == asked.type]
    if not of_type:
        if asked.unchecked:
            return asked.key, asked.version or 1
        known = ", ".join(sorted({event.name for event in declared})) or "none"
        raise Problem(422, f"topic {asked.topic!r} has no event {asked.type!r}; its events: {known}")
    newest: EventType = max(of_type, key=lambda event: event.version)
    version = asked.version or newest.version
    key = newest.key_of(newest.read(version, bytes(asked.data)))
    if key is not None and asked.key not in (None, key):
        raise Problem(422, f"{asked.type} is ordered by {newest.key!r}, which is {key!r} here")
    return key or asked.key, version


ENDPOINTS: list[tuple[str, str, Endpoint]] = [
    ("GET", "/admin/topics", _topics),
    ("GET", "/admin/tail", _tail),
    ("POST", "/admin/publish", _publish),
]
