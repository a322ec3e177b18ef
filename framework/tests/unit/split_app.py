"""Three services for tests of the split shape: one calls another, one reads what it publishes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from google.protobuf.wrappers_pb2 import StringValue
from millstream import Caller, Event, Permanent, Query, Service, ServiceContext, Tx
from millstream.contracts import Contract, rpc
from millstream.http import Created, Headers


class Noted(Event, topic="notes", key="text", version=1):
    text: str


class Where:
    """Where the system is reached, as a service is told."""

    def __init__(self, url: str) -> None:
        self.url = url


class Back(Contract, service="test.v1.Back"):
    note = rpc("Note", StringValue, StringValue)
    pid = rpc("Pid", StringValue, StringValue)


front = Service("front")
back = Service("back", migrations="split_app_sql")
reader = Service("reader", migrations="split_app_sql")


@front.post("/notes", idempotent=True, forwards_key=True)
async def post_note(body: dict[str, str], caller: Caller, back: Back) -> Created[dict[str, str]]:
    answer = await back.note(StringValue(value=body["text"]), caller=caller)
    return Created({"by": answer.value}, location="/notes")


@front.get("/pids", public=True)
async def pids(caller: Caller, back: Back) -> dict[str, str]:
    return {"front": str(os.getpid()), "back": (await back.pid(StringValue(), caller=caller)).value}


@back.rpc(Back.note, idempotent=True)
async def note(request: StringValue, caller: Caller, tx: Tx) -> StringValue:
    await tx.execute("INSERT INTO notes (text) VALUES (?)", request.value)
    tx.publish(Noted(request.value))
    return StringValue(value=caller.subject)


@back.rpc(Back.pid)
async def pid(request: StringValue) -> StringValue:
    return StringValue(value=str(os.getpid()))


back.emits(Noted)


@reader.on(Noted, name="read")
async def read(noted: Noted, tx: Tx) -> None:
    if noted.text.startswith("broken"):
        raise Permanent("this one cannot be read")
    await tx.execute("INSERT INTO notes (text) VALUES (?)", noted.text)


@reader.get("/read", summary="What was read")
async def list_read(query: Query, after: str = "") -> list[str]:
    return [row[0] for row in await query.fetch("SELECT text FROM notes WHERE text > ? ORDER BY text", after)]


@reader.post("/echo", public=True)
async def echo(body: dict[str, str], headers: Headers) -> dict[str, str]:
    return {**body, "x-test": headers.get("x-test") or ""}


@reader.get("/where/{name}", public=True)
async def where_is(name: str, where: Where) -> dict[str, str]:
    return {name: where.url}


@reader.resource(Where)
async def make_where(context: ServiceContext) -> AsyncIterator[Where]:
    yield Where(context.http_url)


all = (front, back, reader)  # noqa: A001 - read as split_app:all
