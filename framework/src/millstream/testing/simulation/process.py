"""A simulated process: what a kill -9 ends, and a SIGSTOP stops.

Every task and callback knows its process by a context variable, so whatever a task starts belongs to the same process. A
kill is no cancellation: no `finally`, no `__aexit__` and no `except` runs. What the process had ready is dropped, its tasks
are kept so that nothing unwinds them, and every engine that it uses learns of its death first, by a fence: a connection
that closes, a lock that the system takes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from .errors import ProcessDied

if TYPE_CHECKING:
    from .loop import SimulationLoop, Step

__all__ = ["CURRENT", "Process", "current"]

CURRENT: ContextVar[Process] = ContextVar("millstream_simulated_process")


def current() -> Process | None:
    """The process whose code is running; None for code that runs in no simulation."""
    return CURRENT.get(None)


class Process:
    """Made by `SimulationLoop.process`. `skew_us`: how far its wall clock is from the true one."""

    __slots__ = ("_fences", "_kept", "_loop", "alive", "name", "paused", "queue", "skew_us", "steps")

    def __init__(self, name: str, loop: SimulationLoop) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.skew_us = 0
        self.steps = 0
        """How many steps of it ran."""
        self.queue = loop.ready
        """Where its callbacks go that became ready: to the loop, or, paused or dead, to a list of their own."""
        self._loop = loop
        self._fences: list[Callable[[], object]] = []
        self._kept: list[object] = []

    def __repr__(self) -> str:
        return f"<process {self.name}{'' if self.alive else ', dead'}>"

    def spawn(self, body: Coroutine[Any, Any, Any], name: str = "main") -> asyncio.Task[Any]:
        """Run a coroutine inside this process."""
        context = copy_context()
        context.run(CURRENT.set, self)
        return self._loop.create_task(body, name=f"{self.name}/{name}", context=context)

    def fence(self, at_death: Callable[[], object]) -> Callable[[], None]:
        """Call `at_death` when the process is killed, before anything else learns of it. Returns how to take it back."""
        self._fences.append(at_death)

        def forget() -> None:
            if at_death in self._fences:
                self._fences.remove(at_death)

        return forget

    def check(self) -> None:
        """For engines: refuse to act for a dead process.

        Raises:
            ProcessDied: it was killed during the step that is running.
        """
        if not self.alive:
            raise ProcessDied(self.name)

    def kill(self) -> None:
        """End it at once. A step of it that is running runs on to its next wait, behind the fences."""
        if not self.alive:
            return
        self.alive = self.paused = False
        fences, self._fences = self._fences, []
        for fence in fences:
            self._loop.outside_context.copy().run(fence)
        kept: list[Step] = []
        self._leave(kept)
        self._kept += [kept, self._loop.tasks_of(self)]

    def pause(self) -> None:
        """Stop it where it is, as by SIGSTOP, or as a machine that swaps: time goes on without it."""
        if self.alive and not self.paused:
            self.paused = True
            self._leave([])

    def resume(self) -> None:
        """Let it run on; what became due meanwhile is ready now."""
        if self.alive and self.paused:
            self.paused = False
            held, self.queue = self.queue, self._loop.ready
            self._loop.ready.extend(held)

    def _leave(self, to: list[Step]) -> None:
        """Take what it has ready off the loop."""
        mine = [step for step in self.queue if step.process is self]
        to.extend(mine)
        if self.queue is self._loop.ready:
            self._loop.ready[:] = [step for step in self._loop.ready if step.process is not self]
        self.queue = to

    def bury(self) -> None:
        """After the run: let go of what was kept."""
        self._kept.clear()
        self.queue = []
