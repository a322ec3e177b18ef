"""What the kernel knows of one handler: a subscription and how its messages are handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from ..message import EventType
from ..resilience.backoff import Retry

__all__ = ["AfterDeadLetter", "Sequence", "Start", "Subscription"]

AfterDeadLetter = Literal["hold", "go_on"]
Start = Literal["earliest", "now"]


class Sequence(msgspec.Struct, frozen=True):
    """A source that numbers its events per key but may deliver them out of order (rule F3).

    field: the event's field with the number. first: the number a key begins with. gap: seconds to wait for a missing
    number before going on without it.
    """

    field: str
    first: int = 1
    gap: float = 60.0


class Subscription(msgspec.Struct, frozen=True, eq=False):
    """One handler's consumption of one topic, under a stable name.

    `handle(event, unit)` receives a `Tx` for a handler, a `Call` for an effect; where `batched`, a list of events.
    What it returns (nothing, an event, or an iterable of events) is published in its own transaction.
    """

    service: str
    name: str
    topic: str
    events: tuple[EventType, ...]
    handle: Callable[[Any, Any], Awaitable[Any]]
    where: str
    effect: bool = False
    batched: bool = False
    retry: Retry = Retry()
    after_dead_letter: AfterDeadLetter = "hold"
    timeout: float = 30.0
    """Seconds a call of an effect may take; it stays below the lease (rule F4)."""
    concurrency: int = 16
    """Calls of an effect that may be under way at once in one process."""
    sequence: Sequence | None = None
    start: Start = "earliest"
    """Where a subscription begins that its store has never seen."""
