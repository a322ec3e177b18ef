"""A node: the real runtime with real services in a simulated process, which can die and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

import msgspec

from ...errors import Transient
from ...http.app import HttpBinding, build_app
from ...http.auth import Identity
from ...runtime.runtime import Bound, Composition, Runtime
from ...service.service import Service
from ..asgi import Answer, request
from .log import SimulatedTransport
from .machine import SeededEntropy
from .process import Process
from .recorder import Recorder

if TYPE_CHECKING:
    from .simulation import Simulation

__all__ = ["Gone", "Node"]

R = TypeVar("R")
PATIENCE = 8.0
"""Seconds after which a client gives a request up."""
STOP_SECONDS = 5.0
GRACE_SECONDS = 30.0
"""What a process gets to stop in order, before it is killed: beyond all of its own bounds."""


class Gone(Exception):
    """A request got no answer. Whether it took effect is unknown."""


@final
class Node:
    """Made by `Simulation.node`. At most one process at a time; each has the node's name and a number."""

    def __init__(self, simulation: Simulation, name: str, services: Sequence[Service]) -> None:
        self.name = name
        self.services = tuple(services)
        self.runtime: Runtime | None = None
        self.process: Process | None = None
        self.lives = 0
        self._sim = simulation
        self._app: Any = None
        self._stop: asyncio.Event | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def ready(self) -> bool:
        """Whether its workers have looked at all claims."""
        return self.alive and self.runtime is not None and self.runtime.ready

    @property
    def bound(self) -> dict[str, Bound]:
        """Its services on their engines, once it runs."""
        return self.runtime.bound if self.runtime is not None else {}

    # -- life and death ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process, unless one lives."""
        if self.alive:
            return
        self.lives += 1
        self.runtime = self._app = None
        self._stop = asyncio.Event()
        process = self.process = self._sim.loop.process(self.name)
        self._sim.tell(f"{self.name} starts, life {self.lives}")
        process.spawn(self._live(process))

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.process.alive:
            self._sim.tell(f"{self.name} is killed")
            self._sim.kills += 1
            self.process.kill()

    def stop(self) -> None:
        """SIGTERM: stop in order, and be killed if that takes too long."""
        process = self.process
        if process is None or not process.alive or self._stop is None:
            return
        self._sim.tell(f"{self.name} is asked to stop")
        self._stop.set()

        def overdue() -> None:
            if process.alive:
                self._sim.violated(f"{self.name} did not stop within {GRACE_SECONDS:g} s:\n{self._sim.loop.waits()}")
                process.kill()

        asyncio.get_running_loop().call_later(GRACE_SECONDS, overdue)

    async def _live(self, process: Process) -> None:
        sim = self._sim
        try:
            async with Runtime(self.services, self._composition()) as runtime:
                self.runtime = runtime
                self._app = build_app(
                    [
                        HttpBinding(b.service.name, b.service.routes, b.store, b.origin, b.resources)
                        for b in runtime.bound.values()
                    ],
                    authenticate=_anybody,
                    clock=sim.clock,
                    ids=runtime.ids,
                    instrumentation=runtime.composition.instrumentation,
                )
                assert self._stop is not None
                await self._stop.wait()
                await runtime.stop(STOP_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever ended the process, it is judged here
            if not process.alive:
                return  # what a dead process still raises
            unexpected = [e for e in _leaves(error) if not isinstance(e, Transient)]
            sim.tell(f"{self.name} ends by itself: {error!r}")
            for leaf in unexpected:
                sim.violated(f"{self.name} ended in {type(leaf).__name__}: {leaf}")
        else:
            sim.tell(f"{self.name} has stopped")
        finally:
            process.kill()

    def _composition(self) -> Composition:
        sim = self._sim
        return Composition(
            open_store=lambda name: sim.removal.store(sim.open_store(name, self._recorder()), name),
            transport=sim.removal.transport(SimulatedTransport(sim.engine, sim.network, sim.refuses)),
            data=sim.folder,
            clock=sim.clock,
            entropy=SeededEntropy(f"{sim.seed}/{self.name}/{self.lives}"),
            instrumentation=self._recorder(),
            limits=sim.limits,
            partitions=sim.partitions,
            settings=lambda _: sim.settings,
        )

    def _recorder(self) -> Recorder:
        process = self.process
        return Recorder(lambda words: process is not None and process.alive and self._sim.tell(f"{self.name}: {words}"))

    # -- requests ---------------------------------------------------------------------------------------------------

    async def request(self, method: str, path: str, body: object, key: str) -> Answer:
        """One request from outside, as somebody sends it who may lose the answer.

        Raises:
            Gone: nobody answered.
        """
        headers = {"authorization": "Bearer anybody", "content-type": "application/json", "idempotency-key": key}
        payload = msgspec.json.encode(body)
        return await self.inside(lambda: request(self._app, method, path, payload, headers), f"{method} {path}")

    async def inside(self, body: Callable[[], Coroutine[Any, Any, R]], name: str) -> R:
        """Run something inside the process for somebody outside, who may lose the answer.

        Raises:
            Gone: nobody answered. What it did before, it did.
            Exception: what `body` raised.
        """
        sim, process = self._sim, self.process
        await asyncio.sleep(sim.network.delay())
        if process is None or not process.alive or self._app is None:
            raise Gone(f"{self.name} is down")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        lost = sim.network.drawn(sim.network.faults.lost_answer, f"lost answer of {self.name} to {name}")

        async def serve() -> None:
            try:
                end = partial(_tell, answer, await body())
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                end = partial(_fail, answer, error)
            if not lost:
                loop.call_later(sim.network.delay(), end, context=sim.loop.outside_context)

        def died() -> None:
            loop.call_later(sim.network.delay(), _fail, answer, Gone("the connection was lost"))

        forget = process.fence(died)
        timer = loop.call_later(PATIENCE, _fail, answer, Gone("no answer"))
        process.spawn(serve(), name)
        try:
            return await answer
        finally:
            timer.cancel()
            forget()


def _tell(answer: asyncio.Future[R], found: R) -> None:
    if not answer.done():
        answer.set_result(found)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return [leaf for inner in group.exceptions for leaf in _leaves(inner)]
    return [error]


async def _anybody(token: str) -> Identity:
    return Identity(token, ("operator",))
