"""A worker process forked from a warm parent: everything is imported already, so that a life costs milliseconds.

Fork where no event loop runs and no thread holds a lock. The worker has a loop of its own and ends with `os._exit`,
whatever happens in it: nothing of the parent's runs twice.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Literal, NoReturn, final

import msgspec
import uvloop

__all__ = ["Body", "End", "Forked", "Report"]

WHERE = signal.SIGUSR1
"""Asks a worker where its tasks wait."""
WHERE_SECONDS = 2.0

How = Literal["done", "killed", "raised", "stuck"]


class End(msgspec.Struct, frozen=True):
    """How a worker ended.

    how: `done`: its body returned; `killed` by SIGKILL; `raised`: `text` is the traceback, or the signal that ended it;
    `stuck`: it did not end in time and was killed then, `text` says where its tasks waited. point: where it was, if it
    said so. counts: hits by point, of a worker that was done.
    """

    how: How
    point: str = ""
    text: str = ""
    counts: dict[str, int] = {}


class _Said(msgspec.Struct, omit_defaults=True):
    point: str = ""
    text: str = ""
    counts: dict[str, int] = {}
    ready: bool = False


@final
class Report:
    """What a worker tells its parent. Each call is one write to a pipe: it arrives also when SIGKILL comes next."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def at(self, point: str) -> None:
        """The process is about to die here."""
        self._say(_Said(point=point))

    def ready(self) -> None:
        """The system runs: from now on a kill hits work."""
        self._say(_Said(ready=True))

    def counted(self, counts: dict[str, int]) -> None:
        """How often each point was passed."""
        self._say(_Said(counts=counts))

    def failed(self, text: str) -> None:
        """The body raised."""
        self._say(_Said(text=text))

    def _say(self, said: _Said) -> None:
        os.write(self._descriptor, msgspec.json.encode(said) + b"\n")


Body = Callable[[Report], Coroutine[Any, Any, None]]
"""What a worker runs: `async (report) -> None`."""


@final
class Forked:
    """A running worker. `wait` for its end, or select on it and call `wait` when it is readable and at its end."""

    def __init__(self, body: Body, *, seconds: float = 30.0) -> None:
        """Start it. `seconds`: of its life; after that `wait` kills it and calls it stuck."""
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _live(body, Report(writing))
        os.close(writing)
        self._descriptor = reading
        self._until = time.monotonic() + seconds
        self._heard = b""
        self._kill_at: float | None = None
        self._kill_after: float | None = None

    def fileno(self) -> int:
        return self._descriptor

    def kill_after(self, seconds: float) -> None:
        """SIGKILL from outside, this long after the worker said that it is ready."""
        self._kill_after = seconds

    @property
    def ready(self) -> bool:
        """Whether it has said so."""
        return b'"ready"' in self._heard

    def timeout(self) -> float:
        """Seconds until `step` must be called even if nothing was heard."""
        until = self._until if self._kill_at is None else min(self._until, self._kill_at)
        return max(0.0, until - time.monotonic())

    def step(self) -> End | None:
        """Read what there is and kill what is due; the end, once it is there."""
        if select.select([self._descriptor], [], [], 0)[0]:
            heard = os.read(self._descriptor, 65_536)
            self._heard += heard
            if not heard:
                return self._ended(False)
            if self._kill_after is not None and b'"ready"' in heard:
                self._kill_at, self._kill_after = time.monotonic() + self._kill_after, None
        now = time.monotonic()
        if now >= self._until or (self._kill_at is not None and now >= self._kill_at):
            return self.kill(stuck=now >= self._until)
        return None

    def kill(self, *, stuck: bool = False) -> End:
        """SIGKILL now. One that is stuck is asked first where it waits."""
        if stuck:
            os.kill(self.pid, WHERE)
            select.select([self._descriptor], [], [], WHERE_SECONDS)
        os.kill(self.pid, signal.SIGKILL)
        while heard := os.read(self._descriptor, 65_536):
            self._heard += heard
        return self._ended(stuck)

    def wait(self) -> End:
        """Block until it has ended."""
        while (end := self.step()) is None:
            select.select([self._descriptor], [], [], self.timeout())
        return end

    def _ended(self, stuck: bool) -> End:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._descriptor)
        said = [msgspec.json.decode(line, type=_Said) for line in self._heard.splitlines() if line.endswith(b"}")]
        point = next((s.point for s in said if s.point), "")
        text = next((s.text for s in said if s.text), "")
        counts: dict[str, int] = {}
        for one in said:
            counts.update(one.counts)
        if stuck:
            return End("stuck", point, text)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return End("killed", point or "at random", text)
        if os.WIFSIGNALED(status):  # a library that gave up with abort() has not been killed by us
            return End("raised", point, text or f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
        if os.waitstatus_to_exitcode(status) != 0:
            return End("raised", point, text or f"exit code {os.waitstatus_to_exitcode(status)}")
        return End("done", point, text, counts)


def _live(body: Body, report: Report) -> NoReturn:
    # What the parent left to the collector is none of this process's: a client of Kafka, for one, waits in its destructor
    # for threads that did not come along, or crashes.
    gc.freeze()
    code = 1

    async def watched() -> None:
        asyncio.get_running_loop().add_signal_handler(WHERE, lambda: report.failed(_stacks()))
        await body(report)

    try:
        uvloop.run(watched())
        code = 0
    except BaseException:  # noqa: BLE001 - the parent decides what it means
        report.failed(traceback.format_exc())
    finally:
        os._exit(code)


def _stacks() -> str:
    """What each task waits for."""
    found = [f"{task.get_name()} {stack}" for task in asyncio.all_tasks() if (stack := _awaits(task))]
    return "\n".join(sorted(found))


def _awaits(task: asyncio.Task[Any]) -> str:
    # `Task.get_stack` shows the outermost coroutine alone; what it awaits tells more.
    places: list[str] = []
    at: Any = task.get_coro()
    while at is not None:
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)
    return " > ".join(places)
