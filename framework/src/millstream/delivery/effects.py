"""Calls to the outside world: at least once, with an idempotency key and a fence (rule F4).

A call's deadline is below the lease and counted on the event loop's own clock. A call that is cancelled because the
process stops gives its start back: it is neither a success nor a failure.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..clock import seconds
from ..ports.wake import Wake
from .consumption import Consumption
from .parking import Concluded, Started
from .tx import Call

__all__ = ["LEASE_SHARE", "Slots", "call_timeout", "run_call"]

LEASE_SHARE = 0.8
"""A call may take this share of the lease at most: it must end before somebody else may start it again."""


class Slots:
    """How many calls of one effect may be under way in this process, over all its partitions.

    A partition that finds none free stands in line: a slot that becomes free goes to the first in line and not to
    whoever asks next, so that a busy partition cannot starve a quiet one.
    """

    __slots__ = ("_free", "_granted", "_line")

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._granted: dict[Wake, int] = {}
        self._line: deque[Wake] = deque()

    def room(self, partition: Wake) -> int:
        """How many calls this partition may start now."""
        return self._free + self._granted.get(partition, 0)

    def take(self, partition: Wake) -> None:
        """Use one slot of `room`."""
        granted = self._granted.pop(partition, 0)
        if granted == 0:
            self._free -= 1
        elif granted > 1:
            self._granted[partition] = granted - 1

    def give(self) -> None:
        """A call ended."""
        if self._line:
            first = self._line.popleft()
            self._granted[first] = self._granted.get(first, 0) + 1
            first.set()
        else:
            self._free += 1

    def stand_in_line(self, partition: Wake) -> None:
        """Wake the partition once a slot is its own."""
        if partition not in self._line:
            self._line.append(partition)

    def leave(self, partition: Wake) -> None:
        """Return what was granted and not used, and the place in line."""
        if partition in self._line:
            self._line.remove(partition)
        for _ in range(self._granted.pop(partition, 0)):
            self.give()


def call_timeout(c: Consumption) -> float:
    """Seconds a call may take."""
    return min(seconds(c.subscription.timeout), c.limits.lease_seconds * LEASE_SHARE)


async def run_call(c: Consumption, started: Started) -> Concluded:
    """Make one call; its error is part of the outcome, only a cancellation is raised."""
    timeout = call_timeout(c)
    message = started.item.message
    call = Call(
        message,
        started.fence,
        started.attempts + 1,
        c.clock.now_us() + round(timeout * 1e6),
        f"{c.subscription.service}/{c.subscription.name}/{message.id}",
    )
    began = c.clock.monotonic()
    concluded = Concluded(started)
    try:
        async with asyncio.timeout(timeout):
            with c.instrumentation.span(
                "millstream.effect",
                message.traceparent,
                service=c.subscription.service,
                subscription=c.subscription.name,
                message_id=message.id,
                event_type=message.type,
                attempt=call.attempt,
            ) as traceparent:
                call.traceparent = traceparent or call.traceparent
                concluded.returned = await c.subscription.handle(started.item.event, call)
    except TimeoutError:
        concluded.error = TimeoutError(f"no answer within {timeout:g} s; whether the call took effect is unknown")
    except Exception as error:  # noqa: BLE001 - the turn that records it decides what it means
        concluded.error = error
    c.instrumentation.observe("millstream_effect_call_seconds", c.labels, c.clock.monotonic() - began)
    return concluded
