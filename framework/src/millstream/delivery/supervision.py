"""Long-lived tasks that an unexpected error must not end: they are run again, after a growing pause."""

from __future__ import annotations

from typing import Protocol

from ..clock import Clock
from ..ids import Entropy
from ..ports.instrumentation import Instrumentation, Labels
from ..ports.wake import Wake
from ..resilience.backoff import Retry
from .verdict import describe

__all__ = ["RESTART", "Part", "Supervised"]

RESTART = Retry(first="200ms", cap="30s")
"""Full jitter, so that tasks that died of one cause do not come back as a crowd."""


class Part(Protocol):
    """Something that runs until it is stopped."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


class Supervised:
    """A part that comes back. A part that ends by itself, or is cancelled, stays ended."""

    def __init__(
        self, part: Part, name: str, *, clock: Clock, entropy: Entropy, instrumentation: Instrumentation, labels: Labels
    ) -> None:
        self._part = part
        self._name = name
        self._clock = clock
        self._entropy = entropy
        self._instrumentation = instrumentation
        self._labels = labels
        self._wake = Wake(clock)
        self._stopping = False

    async def run(self) -> None:
        """Run the part; return once it has ended."""
        failures = 0
        while not self._stopping:
            began = self._clock.monotonic()
            try:
                return await self._part.run()
            except Exception as error:  # noqa: BLE001 - the supervisor: whatever it was, it is recorded and tried again
                long_ago = self._clock.monotonic() - began > 60.0
                failures = 1 if long_ago else failures + 1
                pause = RESTART.delay(failures, self._entropy.random())
                self._instrumentation.count("millstream_task_restarts_total", self._labels)
                self._instrumentation.log(
                    "error", "task_failed", task=self._name, error=describe(error), pause_s=round(pause, 3)
                )
                await self._wake.wait(pause)
        return None

    def stop(self) -> None:
        """End the part, or the pause before its next run."""
        self._stopping = True
        self._wake.set()
        self._part.stop()
