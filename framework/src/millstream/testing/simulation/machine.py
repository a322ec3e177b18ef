"""What a process finds on its machine: a clock, randomness, and a disk that takes its time.

All of it fulfils the ports and draws from one seed. It also works on an ordinary event loop, so that the conformance suites
run on it there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar, final

from ...clock import Handle
from .process import current

__all__ = ["START_US", "InlineWorker", "SeededEntropy", "SimulatedClock"]

R = TypeVar("R")
Job = tuple[Callable[[], object], Callable[[object, BaseException | None], object]]
START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, where the wall clocks of a simulation begin."""


@final
class SimulatedClock:
    """The loop's virtual time. The wall clock of a process is wrong by its `skew_us`, which may jump; its monotonic one
    never does."""

    def now_us(self) -> int:
        process = current()
        now = START_US + round(asyncio.get_running_loop().time() * 1e6)
        return now if process is None else now + process.skew_us

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_later(delay, callback)


@final
class SeededEntropy:
    """Randomness that a seed repeats."""

    def __init__(self, seed: int | str) -> None:
        self._random = Random(seed)

    def random(self) -> float:
        return self._random.random()

    def token(self, n_bytes: int) -> bytes:
        return self._random.randbytes(n_bytes)


@final
class InlineWorker:
    """Stands in for the thread that waits for the disk: jobs run inline, one after another, each when `delay` is over.

    The job and the news of its end are two steps: between them lies the moment at which a commit is durable and nobody
    knows it. before: called in front of each job; what it raises is the job's error, as of a disk that refuses.
    """

    def __init__(self, delay: Callable[[], float], before: Callable[[], object] = lambda: None) -> None:
        self._delay = delay
        self._before = before
        self._jobs: deque[Job] = deque()
        self._running = False
        self._idle: asyncio.Future[None] | None = None

    def submit(self, job: Callable[[], object], done: Callable[[object, BaseException | None], object]) -> None:
        self._jobs.append((job, done))
        if not self._running:
            self._running = True
            self._next()

    async def run(self, job: Callable[[], R]) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.submit(job, done)
        return await future

    async def aclose(self) -> None:
        if self._running:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def _next(self) -> None:
        if self._jobs:
            asyncio.get_running_loop().call_later(self._delay(), self._work, *self._jobs.popleft())
            return
        self._running = False
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _work(self, job: Callable[[], object], done: Callable[[object, BaseException | None], object]) -> None:
        result: object = None
        error: BaseException | None = None
        try:
            self._before()
            result = job()
        except BaseException as caught:  # noqa: BLE001 - whoever waits for the job decides what to do with any error
            error = caught
        asyncio.get_running_loop().call_later(self._delay() / 10, self._tell, done, result, error)

    def _tell(
        self, done: Callable[[object, BaseException | None], object], result: object, error: BaseException | None
    ) -> None:
        try:
            done(result, error)
        finally:
            self._next()
