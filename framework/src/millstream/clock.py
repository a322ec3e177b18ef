"""Time as a port: everything that waits or asks what time it is takes a `Clock`.

The wall clock is for people and for comparing with what others wrote; the monotonic one for measuring waits.
A manual clock (`millstream.testing.clock`) and the simulator's clock fulfil the same protocol.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from .errors import Misconfigured

__all__ = ["Clock", "Duration", "Handle", "SystemClock", "seconds"]

Duration = str | timedelta | int | float
"""`"250ms"`, `"1s"`, `"15m"`, `"2h"`, `"7d"`, a `timedelta`, or a number of seconds."""

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")


class Handle(Protocol):
    """A callback that is due later."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What time it is, and waiting."""

    def now_us(self) -> int:
        """Wall clock, microseconds since 1970-01-01 UTC. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds of this clock."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        """Call back on the event loop after `delay` seconds of this clock, unless cancelled."""
        ...


class SystemClock:
    """The machine's clocks and the running event loop's timers."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_later(delay, callback)


def seconds(duration: Duration) -> float:
    """Seconds of a duration.

    Raises:
        Misconfigured: the text is no duration; the message shows the accepted forms.
    """
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, (int, float)):
        return float(duration)
    parts = _DURATION.findall(duration)
    if not parts or "".join(n + u for n, u in parts) != duration.replace(" ", ""):
        raise Misconfigured(f"{duration!r} is no duration; write for instance '250ms', '1s', '15m', '1h30m' or '7d'")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
