"""An event loop without a machine below it: virtual time, and an order of callbacks that a seed decides.

Guaranteed: the same seed and the same code take the same steps, in every interpreter whatever its `PYTHONHASHSEED`; `digest`
says so in 16 digits. When nothing is ready the clock jumps to the next timer; when no timer is set either, the run ends in a
`Deadlock` that names who waits for what. Sockets, threads, child processes and signal handlers raise `NotSimulated`.

Left to the caller: time, ids and randomness of the code that runs must come from ports, and its output must not depend on
the order of a set of strings.

Orders: `any` picks each step among all that are ready. `fifo` picks a process and keeps the order inside it, as asyncio does;
what differs from seed to seed is then how processes interleave, and how long engines take.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from random import Random
from typing import Any, Literal, TypeVar, final

from .errors import Deadlock, NotSimulated, ProcessDied, Stuck
from .process import CURRENT, Process
from .waits import describe_waits

__all__ = ["Order", "SimulationLoop", "Step"]

R = TypeVar("R")
Order = Literal["any", "fifo"]
STEP_US = 5
"""Virtual microseconds that a step takes: about what one costs in truth, so that loops without a wait end at a deadline."""
MOST_STEPS = 3_000_000
MOST_SECONDS = 30 * 86_400.0
EXECUTOR_SECONDS = 0.02
"""The longest that a job given to an executor takes."""
_EVENTS = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system")


@final
class Step:
    """A callback that is ready, or that a timer holds. Fulfils `asyncio.Handle` and `asyncio.TimerHandle`."""

    __slots__ = ("_args", "_callback", "_loop", "_when", "context", "process", "sequence")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
        loop: SimulationLoop,
        when: float = 0.0,
    ) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._loop = loop
        self._when = when
        self.context = context
        self.process: Process = context.get(CURRENT, loop.outside)
        loop.made = self.sequence = loop.made + 1

    def run(self) -> None:
        """Call back; what it raises goes to the loop's exception handler."""
        callback = self._callback
        if callback is None:
            return
        try:
            self.context.run(callback, *self._args)
        except (KeyboardInterrupt, SystemExit, Deadlock, Stuck):
            raise
        except ProcessDied:
            pass
        except BaseException as error:  # noqa: BLE001 - as asyncio does: a callback has nobody else to tell
            self._loop.call_exception_handler({"message": "a callback failed", "exception": error})

    def cancel(self) -> None:
        self._callback, self._args = None, ()

    def cancelled(self) -> bool:
        return self._callback is None

    def when(self) -> float:
        return self._when

    def __lt__(self, other: Step) -> bool:
        return self.sequence < other.sequence


class _Task(asyncio.Task[Any]):
    """A task that hashes by its number: sets of tasks have the same order in every run."""

    sequence: int
    process: Process

    def __hash__(self) -> int:
        return self.sequence

    __eq__ = object.__eq__


class _Future(asyncio.Future[Any]):
    """A future that hashes by its number."""

    sequence: int

    def __hash__(self) -> int:
        return self.sequence

    __eq__ = object.__eq__


class SimulationLoop(asyncio.BaseEventLoop):
    """Use it by `run`; one run each.

    seed: decides the order of steps and how long executors take. order: see the module. most_steps, most_seconds: a run that
    takes more ends in `Stuck`.
    """

    _stopping: bool
    _thread_id: int | None
    _check_closed: Callable[[], None]

    def __init__(
        self,
        seed: int,
        *,
        order: Order = "any",
        most_steps: int = MOST_STEPS,
        most_seconds: float = MOST_SECONDS,
    ) -> None:
        super().__init__()
        self._random = Random(seed)
        self._fifo = order == "fifo"
        self._most_steps = most_steps
        self._most_us = round(most_seconds * 1e6)
        self._timers: list[tuple[int, int, Step]] = []
        self._now_us = 0
        self._digest = 0
        self._closing = False
        self._breaks: list[tuple[int, int, Callable[[], object]]] = []
        self._tasks: dict[_Task, None] = {}
        self.ready: list[Step] = []
        self.made = 0
        """How many steps, tasks and futures were made: what numbers them."""
        self.steps = 0
        """How many steps ran."""
        self.visits: list[Process] | None = None
        """Give it a list, and it says of each step whose it was."""
        self.unhandled: list[str] = []
        """What reached the exception handler: errors that nobody awaited."""
        self.outside = Process("outside", self)
        """What is no simulated process: the world, the engines, the test itself."""
        self.outside_context = copy_context()
        self.outside_context.run(CURRENT.set, self.outside)

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, body: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run `body` outside of all processes until it returns, then end everything as a kill would.

        Raises:
            Deadlock, Stuck: see there.
        """
        collected = gc.isenabled()
        gc.disable()  # it would run finalizers at moments that depend on what else the interpreter did
        try:
            with _sealed():
                task = self.create_task(body(), name="test", context=self.outside_context.copy())
                return self.run_until_complete(task)
        finally:
            self._bury()
            self.close()
            if collected:
                gc.enable()

    def _run_once(self) -> None:
        """Take steps until told to stop; the base class calls it in a loop."""
        ready, timers, draw = self.ready, self._timers, self._random.random
        while not self._stopping:
            now = self._now_us = self._now_us + STEP_US
            if timers and timers[0][0] <= now:
                self._due()
            while not ready:
                self._jump()
            count = self.steps = self.steps + 1
            if self._breaks and self._breaks[0][0] <= count:
                self._break()
                continue
            at = 0 if len(ready) == 1 else int(draw() * len(ready))
            if self._fifo:
                process = ready[at].process
                at = next(i for i, step in enumerate(ready) if step.process is process)
                step = ready.pop(at)
            else:
                step, last = ready[at], ready.pop()
                if at < len(ready):
                    ready[at] = last
            self._digest = hash((self._digest, step.sequence))  # of integers: the same in every interpreter
            process = step.process
            process.steps += 1
            if self.visits is not None:
                self.visits.append(process)
            step.run()
            if count >= self._most_steps:
                raise Stuck(f"no end after {count} steps, {self._now_us / 1e6:.3f} s:\n{self.waits()}")

    def _due(self) -> None:
        while self._timers and self._timers[0][0] <= self._now_us:
            step = heapq.heappop(self._timers)[2]
            if not step.cancelled():
                step.process.queue.append(step)

    def _jump(self) -> None:
        """Nothing is ready: go to the next timer."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(f"nothing can run, and no timer is set:\n{self.waits()}")
        self._now_us = max(self._now_us, timers[0][0])
        if self._now_us > self._most_us:
            raise Stuck(f"no end after {self._now_us / 1e6:.0f} s, {self.steps} steps:\n{self.waits()}")
        self._digest = hash((self._digest, self._now_us))
        self._due()

    def at_step(self, number: int, act: Callable[[], object]) -> None:
        """Instead of taking step `number`, call `act` first, outside of all processes: how a nemesis strikes."""
        self.made += 1
        heapq.heappush(self._breaks, (number, self.made, act))

    def _break(self) -> None:
        _, _, act = heapq.heappop(self._breaks)
        self.outside_context.run(act)

    @property
    def digest(self) -> str:
        """16 digits that are the same for two runs if they took the same steps and noted the same."""
        return f"{self._digest & 0xFFFF_FFFF_FFFF_FFFF:016x}"

    def note(self, *what: int) -> None:
        """Make these numbers part of the digest: what an engine was told, as a checksum."""
        self._digest = hash((self._digest, *what))

    def waits(self) -> str:
        """Who waits for what now."""
        return describe_waits([task for task in self._tasks if task.process.alive])

    # -- processes --------------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        """A new process; `spawn` gives it something to do."""
        return Process(name, self)

    def tasks_of(self, process: Process) -> list[asyncio.Task[Any]]:
        """Its tasks that are not done."""
        return [task for task in self._tasks if task.process is process and not task.done()]

    def _bury(self) -> None:
        """Let go of everything that is still under way. Nothing of it has an effect any more; the trace is complete."""
        self._closing = True
        hook, sys.unraisablehook = sys.unraisablehook, _ignore
        try:
            left = [task for task in self._tasks if not task.done()]
            processes = {id(task.process): task.process for task in left}
            for process in processes.values():
                process.kill()
            for task in left:
                task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue] - of the base class
                body: Any = task.get_coro()
                # What it still does on its way out meets fences only; one that waits again is closed again.
                for _ in range(20):
                    if getattr(body, "cr_frame", None) is None:
                        break
                    with suppress(BaseException):
                        body.close()
            for process in processes.values():
                process.bury()
            self._tasks.clear()
            self.ready.clear()
            self._timers.clear()
            left.clear()
        finally:
            sys.unraisablehook = hook

    # -- what asyncio asks of a loop ----------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_us / 1e6

    @property
    def now_us(self) -> int:
        """Virtual microseconds since the run began."""
        return self._now_us

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        step = Step(callback, args, copy_context() if context is None else context, self)
        step.process.queue.append(step)
        return step

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        if self._thread_id not in (None, threading.get_ident()):
            raise NotSimulated("a call from another thread")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now_us / 1e6 + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        step = Step(callback, args, copy_context() if context is None else context, self, when)
        # Rounded up: a timer that fires early would be asked for again.
        heapq.heappush(self._timers, (-int(-when * 1e6 // 1), step.sequence, step))
        return step

    def create_future(self) -> asyncio.Future[Any]:
        future = _Future.__new__(_Future)
        self.made = future.sequence = self.made + 1
        future.__init__(loop=self)
        return future

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        self._check_closed()
        task = _Task.__new__(_Task)
        # Before __init__, which puts the task into asyncio's own set of all tasks.
        self.made = task.sequence = self.made + 1
        task.process = (context or copy_context()).get(CURRENT, self.outside)
        task.__init__(coro, loop=self, name=str(name or f"task-{self.made}"), context=context)
        tasks = self._tasks
        tasks[task] = None
        if len(tasks) & 0xFF == 0:
            for done in [task for task in tasks if task.done()]:
                del tasks[done]
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """There are no threads: the job runs inline, whole, at a moment that the seed decides."""
        future = self.create_future()

        def run() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits for the job
                future.set_exception(error)

        self.call_later(self._random.random() * EXECUTOR_SECONDS, run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self._closing or isinstance(error, ProcessDied):
            return
        task = context.get("task") or context.get("future")
        if isinstance(task, _Task) and not task.process.alive:
            return
        self.unhandled.append(f"{context.get('message')}: {error!r}" if error is not None else str(context["message"]))


def _ignore(_: object) -> None: ...


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise NotSimulated(f"loop.{name}")

    return refuse


# What of a loop's methods needs the machine.
for _name in (
    "add_reader", "add_signal_handler", "add_writer", "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe",
    "create_connection", "create_datagram_endpoint", "create_server", "create_unix_connection", "create_unix_server",
    "getaddrinfo", "getnameinfo", "remove_reader", "remove_signal_handler", "remove_writer", "sendfile", "sock_accept",
    "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendfile",
    "sock_sendto", "start_tls", "subprocess_exec", "subprocess_shell",
):  # fmt: skip
    setattr(SimulationLoop, _name, _refusing(_name))


class _Seal:
    """What keeps a simulation away from the machine. An audit hook cannot be taken back: there is one, which looks here."""

    thread = 0
    installed = False


def _audit(event: str, _arguments: Iterable[object]) -> None:
    if _Seal.thread and event.startswith(_EVENTS) and threading.get_ident() == _Seal.thread:
        raise NotSimulated(event)


@contextmanager
def _sealed() -> Generator[None]:
    if not _Seal.installed:
        sys.addaudithook(_audit)
        _Seal.installed = True
    before, _Seal.thread = _Seal.thread, threading.get_ident()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.get_ident() == _Seal.thread:  # other threads, a test runner's for instance, go on
            raise NotSimulated(f"thread {thread.name}")
        start(thread)

    setattr(threading.Thread, "start", refuse)  # noqa: B010 - CPython 3.11 raises no audit event for it
    try:
        yield
    finally:
        setattr(threading.Thread, "start", start)  # noqa: B010 - a plain assignment is a type error for a function
        _Seal.thread = before
