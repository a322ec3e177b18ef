"""What all parts of one consumed partition share: the declaration, the claim, and the engines."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..clock import Clock
from ..ids import Entropy
from ..message import EventType
from ..ports.instrumentation import Instrumentation, Labels
from ..ports.store import Store
from .claims import Claim
from .outbox import Origin
from .pacing import Pacer
from .solo import Solo
from .subscription import Subscription

__all__ = ["Consumption", "Limits"]


class Limits(msgspec.Struct, frozen=True):
    """Bounds of consumption; one struct so that defaults stand in one place.

    batch_messages, batch_seconds: a batch ends at whichever comes first (rule C2).
    lease_seconds: how long a claim lives without a sign of its holder; recovery after a kill takes this long on stores
        that several processes share, and no time on those that only one may open.
    crash_starts: starts never given back after which a message counts as what kills the process (rule C5).
    inbox_retention_seconds: how long a repeat of a message is recognised; must exceed retries and redrive (rule C8).
    parked_limit: parked messages of a partition beyond which it stops reading the log, with an alarm (rule C11).
    effect_backlog: the same for effects, whose messages all pass through the store: smaller, the log is the buffer.
    drain_messages: how many untried messages of parked lanes run in one transaction (rule C11).
    """

    batch_messages: int = 500
    batch_seconds: float = 0.05
    lease_seconds: float = 15.0
    crash_starts: int = 3
    inbox_retention_seconds: float = 7 * 86_400.0
    parked_limit: int = 1_000_000
    effect_backlog: int = 5_000
    drain_messages: int = 100

    @property
    def lease_us(self) -> int:
        return round(self.lease_seconds * 1e6)

    @property
    def inbox_retention_us(self) -> int:
        return round(self.inbox_retention_seconds * 1e6)


class Consumption(msgspec.Struct, eq=False):
    """One subscription's consumption of one partition by this holder."""

    subscription: Subscription
    claim: Claim
    generation: int
    known: Mapping[str, EventType]
    recorded: Mapping[str, int]
    store: Store
    origin: Origin
    clock: Clock
    entropy: Entropy
    instrumentation: Instrumentation
    limits: Limits
    labels: Labels
    pacer: Pacer
    solo: Solo
    muted_until: int = 0
    """Of messages up to this position the handler's events are not published: they are replayed (rule F5)."""

    def count(self, metric: str, amount: int) -> None:
        """Add to one of this subscription's counters."""
        if amount:
            self.instrumentation.count(metric, self.labels, amount)
