"""A thread that runs one job after another and reports to the event loop.

SQLite's COMMIT and its checkpoints wait for the disk; apsw releases the interpreter meanwhile. One hop there and back
costs 30 to 60 µs, which is why statements do not take it (rule T1).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeVar

__all__ = ["Worker", "WorkerThread"]

R = TypeVar("R")
Job = tuple[Callable[[], object], Callable[[object, BaseException | None], object]]


class Worker(Protocol):
    """What runs the commits and other long work of a file, in the order in which it is given."""

    def submit(self, job: Callable[[], object], done: Callable[[object, BaseException | None], object]) -> None: ...

    async def run(self, job: Callable[[], R]) -> R: ...

    async def aclose(self) -> None: ...


class WorkerThread:
    """Runs jobs in order. `done(result, error)` is called on the loop that created the worker."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object], done: Callable[[object, BaseException | None], object]) -> None:
        """Run `job` in the thread, then `done` on the loop."""
        self._jobs.put((job, done))

    async def run(self, job: Callable[[], R]) -> R:
        """Run `job` in the thread and return its result."""
        future: asyncio.Future[R] = self._loop.create_future()

        def done(result: object, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # pyright: ignore[reportArgumentType] - the job's own result

        self.submit(job, done)
        return await future

    async def aclose(self) -> None:
        """Finish the jobs at hand and join the thread."""
        self._jobs.put(None)
        # The last job has been handed over, so what is left to wait for is the disk, not another job.
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            result: object = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as caught:  # noqa: BLE001 - the loop decides what to do with any error
                error = caught
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits for the outcome any more
