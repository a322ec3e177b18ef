"""What Millstream's rows shall reach, in figures of their own and ahead of the peers of the same run."""

from __future__ import annotations

from collections.abc import Sequence

from ..figures import Figure, Goal
from .phases import Measured
from .row import Row

__all__ = ["goals"]

Pair = tuple[Row, Measured]

RATES = {
    "millstream-nats": {"end_to_end": 4_000, "consume": 20_000, "relay": 20_000},
    "millstream-kafka": {"end_to_end": 4_000, "consume": 20_000, "relay": 20_000},
    "millstream-postgresql": {"consume": 20_000},
    "millstream-nats-20": {"end_to_end": 10_000},
    "millstream-kafka-20": {"end_to_end": 10_000},
    "millstream-postgresql-20": {"end_to_end": 10_000},
    "millstream-rabbitmq": {"consume": 10_000},
    "millstream-redis": {"consume": 10_000},
}
LIMITS = {"p50_ms": 3.0, "p99_ms": 10.0, "recovery_s": 5.0, "lost": 0.0, "doubled": 0.0, "disordered": 0.0}
_UNITS = {"p50_ms": "ms", "p99_ms": "ms", "recovery_s": "s", "lost": "", "doubled": "", "disordered": ""}


def goals(pairs: Sequence[Pair]) -> list[Figure]:
    """A figure for each goal that was measured. Ceiling of an end to end rate: the best of those that it shall be ahead of."""
    found: list[Figure] = []
    for row, measured in pairs:
        if row.group != "millstream":
            continue
        for name, least in RATES.get(row.name, {}).items():
            if (value := getattr(measured, name)) is not None:
                found.append(Figure(f"{row.name} {name}", value, "events/s", None, Goal(at_least=least)))
        if row.per_tx == 1:
            found += _ahead(row, measured, pairs)
            for name, most in LIMITS.items():
                if (value := getattr(measured, name)) is not None:
                    goal = Goal(at_most=most)
                    found.append(Figure(f"{row.name} {name}", value, _UNITS[name], None, goal, lower_is_better=True))
    return found


def _ahead(row: Row, measured: Measured, pairs: Sequence[Pair]) -> list[Figure]:
    """End to end it shall be ahead of every Python peer and of Watermill's forwarder; on PostgreSQL alone, of Watermill too."""
    if row.name not in {"millstream-nats", "millstream-kafka", "millstream-postgresql"} or measured.end_to_end is None:
        return []
    alone = row.name == "millstream-postgresql"
    others = [
        (other.end_to_end, peer.name)
        for peer, other in pairs
        if peer.group not in {"millstream", "bare"}
        and peer.per_tx == 1
        and (alone or peer.name != "watermill-sql")
        and other.end_to_end is not None
    ]
    if not others:
        return []
    best, name = max(others)
    return [Figure(f"{row.name} ahead of {name}", measured.end_to_end, "events/s", best, Goal(ratio_at_least=1.0))]
