"""The way to an engine and back: it takes time, loses what is sent, and delivers long after nobody waits any more.

A call is a request that arrives at the engine, acts there at once, and an answer on its way back. What was sent arrives
also when its sender is dead by then. Everything that goes wrong is drawn; after `calm` nothing does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any, TypeVar, cast, final

import msgspec

from ...delivery.driving import drive
from .process import current

__all__ = ["Faults", "Lost", "Network"]

R = TypeVar("R")


class Faults(msgspec.Struct, frozen=True):
    """How often what goes wrong; chances from 0 to 1 of a call.

    lost_request: it never arrives. lost_answer: it arrives, and nobody learns so. late_request: it arrives after the caller
    gave up. lost_statement: the connection to a database breaks at one of its statements. repeated: the client's own library sends it again after a reconnect: it acts twice, and is answered once.
    partial: of several records, the engine takes a part, in front. latency, slow: seconds of one way, usually and at most.
    """

    lost_request: float = 0.0
    lost_answer: float = 0.0
    late_request: float = 0.0
    repeated: float = 0.0
    partial: float = 0.0
    lost_statement: float = 0.0
    latency: float = 0.001
    slow: float = 0.02


class Lost(Exception):
    """No answer came. Whether the request acted is unknown."""


@final
class Network:
    """Between all processes and one engine.

    happens: whether a fault that was drawn is let happen; receives its name. patience: seconds after which a caller gives up. outside: where the engine's own steps belong; without one, to the caller.
    """

    def __init__(
        self,
        random: Random,
        faults: Faults,
        *,
        patience: float = 5.0,
        outside: Context | None = None,
        happens: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._random = random
        self._outside = outside
        self._happens = happens
        self._patience = patience
        self.faults = faults
        self.up = True
        """The engine is there; otherwise what arrives is lost."""
        self.cut: set[str] = set()
        """Names of processes that reach nobody, and whom nobody reaches."""
        self.injected = 0
        """How many faults there were."""

    def calm(self) -> None:
        """From now on everything arrives, in time."""
        self.faults = Faults()
        self.up = True
        self.cut.clear()

    def drawn(self, chance: float, what: str) -> bool:
        """Whether something of this chance happens now."""
        happens = chance > 0.0 and self._random.random() < chance and self._happens(what)
        self.injected += happens
        return happens

    def below(self, number: int) -> int:
        """A number from 0 up to `number`, which is not among them."""
        return self._random.randrange(number)

    def delay(self) -> float:
        """Seconds of one way."""
        faults = self.faults
        return self._random.uniform(0.0, faults.slow if self._random.random() < 0.1 else faults.latency)

    async def call(self, act: Callable[[], Awaitable[R]], *, repeatable: bool = True) -> R:
        """Let `act` happen at the engine, and return or raise what came of it. It must not wait for anything.

        Raises:
            Lost: nothing came back in time.
        """
        process, loop, faults = current(), asyncio.get_running_loop(), self.faults
        if process is not None:
            process.check()
        answer: asyncio.Future[R] = loop.create_future()
        name = process.name if process is not None else "nobody"
        loses, late = (
            self.drawn(faults.lost_answer, f"lost answer to {name}"),
            self.drawn(faults.late_request, f"late request of {name}"),
        )
        times = 2 if repeatable and self.drawn(faults.repeated, f"repeated request of {name}") else 1

        def arrive() -> None:
            if not self.up or name in self.cut:
                return
            result: Any = None
            error: BaseException | None = None
            try:
                for _ in range(times):
                    result = drive(cast(Coroutine[Any, Any, R], act()))
            except Exception as caught:  # noqa: BLE001 - an engine's answer may be an error
                error = caught
            if not loses:
                loop.call_later(self.delay(), tell, result, error, context=self._outside)

        def tell(result: Any, error: BaseException | None) -> None:
            if answer.done() or name in self.cut:
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        if not self.drawn(faults.lost_request, f"lost request of {name}"):
            on_its_way = self.delay() + (self._patience * self._random.uniform(1.0, 4.0) if late else 0.0)
            loop.call_later(on_its_way, arrive, context=self._outside)
        timer = loop.call_later(
            self._patience, lambda: answer.done() or answer.set_exception(Lost(f"no answer in {self._patience:g} s"))
        )
        try:
            return await answer
        finally:
            timer.cancel()
