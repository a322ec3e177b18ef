"""Services that behave as real ones sometimes do at the worst moment: a call that hangs, a route that blocks the loop."""

from __future__ import annotations

import time
from pathlib import Path

from millstream import Call, Event, Retry, Service, Tx
from millstream.service.context import ServiceContext

__all__ = ["all"]


class Asked(Event, topic="questions", key="name", version=1):
    name: str


class Marker:
    """Shows the test, by a file, how far something has come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def touch(self, name: str) -> None:
        (self._folder / name).touch()

    def exists(self, name: str) -> bool:
        return (self._folder / name).exists()


awkward = Service("awkward")


@awkward.resource(Marker)
async def marker(context: ServiceContext):
    yield Marker(context.data)


@awkward.post("/ask", public=True)
async def ask(tx: Tx) -> dict[str, str]:
    tx.publish(Asked("ann"))
    return {"asked": "ann"}


@awkward.effect(Asked, name="answer", retry=Retry(attempts=1), timeout="60s")
async def answer(event: Asked, call: Call, marker: Marker) -> None:
    import asyncio

    if marker.exists("healed"):
        marker.touch("answered")
        return
    marker.touch("hanging")
    await asyncio.Event().wait()


@awkward.post("/block", public=True)
async def block(marker: Marker, tx: Tx) -> dict[str, str]:
    marker.touch("blocked")
    time.sleep(600)  # noqa: ASYNC251 - what must never be done
    return {}


all = (awkward,)  # noqa: A001 - what an app is called
