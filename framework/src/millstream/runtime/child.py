"""One process of a split system: started, watched, started anew, stopped.

What it writes is passed on line by line with its name in front (as a field of JSON lines), so that one stream tells who
said what. Its standard input is a pipe from here: when this process is gone, however it ended, the pipe closes and the
child stops by itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from ..clock import Clock
from ..ids import Entropy
from ..ports.instrumentation import Instrumentation
from ..resilience.backoff import Retry

__all__ = ["Child", "Failed", "Plan", "labelled"]

AGAIN = Retry(attempts=1_000_000, first="200ms", cap="15s")
STEADY_SECONDS = 30.0
"""A child that ran that long did not fail at starting: the next pause begins small again."""
LINE_BYTES = 1 << 20


class Failed(Exception):
    """A child ended before it was ready for the first time: what it needs is not there, and starting it again does not
    bring it. `code` is its exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(name)
        self.name = name
        self.code = code


@dataclass(frozen=True)
class Plan:
    """How to start it. ready: told with the line in which a child says that it is ready; None: it is when it runs.

    inherited: descriptors that it keeps open.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    inherited: tuple[int, ...] = ()
    prepare: Callable[[], None] | None = None
    """Called in the child before the program begins."""


class Child:
    """Runs until `stop`. A crash after the first readiness is answered with a new start, after a growing pause."""

    def __init__(self, plan: Plan, clock: Clock, entropy: Entropy, instrumentation: Instrumentation) -> None:
        self.plan = plan
        self.ready = asyncio.Event()
        """Set when it said so for the first time."""
        self._clock = clock
        self._entropy = entropy
        self._instrumentation = instrumentation
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self.code: int | None = None
        """The exit code of its last run."""

    async def run(self) -> None:
        """Until it was stopped, and has ended.

        Raises:
            Failed: it ended before it was ready.
        """
        crashes = 0
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            self.code = await self._once()
            if self._stopping.is_set():
                return
            if not self.ready.is_set():
                raise Failed(self.plan.name, self.code)
            crashes = 1 if self._clock.monotonic() - began > STEADY_SECONDS else crashes + 1
            pause = AGAIN.delay(crashes, self._entropy.random())
            self._instrumentation.log(
                "error", "process_ended", process=self.plan.name, code=self.code, again_in_s=round(pause, 2)
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def stop(self, seconds: float) -> None:
        """SIGTERM; SIGKILL when it has not ended after `seconds`. Returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            self._instrumentation.log("error", "process_killed", process=self.plan.name, after_s=seconds)
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    @property
    def pid(self) -> int | None:
        """While it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def _once(self) -> int:
        plan = self.plan
        process = self._process = await asyncio.create_subprocess_exec(
            *plan.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(plan.environment),
            pass_fds=plan.inherited,
            preexec_fn=plan.prepare,
            start_new_session=True,  # Ctrl-C in a terminal is for the supervisor, which then stops its processes in order
            limit=LINE_BYTES,
        )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(process.stdout, sys.stdout))
                group.create_task(self._pass_on(process.stderr, sys.stderr))
                return await process.wait()
        except asyncio.CancelledError:
            self.kill()
            await process.wait()
            raise

    async def _pass_on(self, source: asyncio.StreamReader, target: object) -> None:
        while True:
            try:
                line = await source.readline()
            except ValueError:  # longer than any line of ours: let it go
                continue
            if not line:
                return
            if line.startswith(b'{"ready":true'):
                self.ready.set()
                continue
            with suppress(OSError, ValueError):
                stream = sys.stderr if target is sys.stderr else sys.stdout
                stream.write(labelled(self.plan.name, line.decode(errors="replace")))
                stream.flush()


def labelled(name: str, line: str) -> str:
    """A line with the name of who wrote it: as the field `process` of a JSON object, in front of any other text."""
    if line.startswith('{"'):
        with suppress(msgspec.DecodeError):
            if isinstance(msgspec.json.decode(line), dict):
                return f'{{"process":{msgspec.json.encode(name).decode()},{line[1:]}'
    return f"{name:<16} {line}"
