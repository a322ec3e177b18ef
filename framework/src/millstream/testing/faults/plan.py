"""What may go wrong with a network, and plans of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

__all__ = ["KINDS", "Episode", "Kind", "episodes"]

Kind = Literal["delay", "slow", "slice", "reset", "close", "torn", "refuse", "silent", "half-open", "deaf", "mute"]

KINDS: tuple[Kind, ...] = get_args(Kind)


class Episode(msgspec.Struct, frozen=True):
    """One fault, from its beginning to its end.

    | kind | while it lasts |
    |---|---|
    | `delay` | every piece of data takes `latency_seconds` longer, either way |
    | `slow` | no more than `bytes_per_second` pass, either way |
    | `slice` | data arrives in pieces of 1 to 7 bytes: whoever reads whole messages at once is found out |
    | `reset` | all connections are reset at the beginning, new ones pass |
    | `close` | all connections are ended in an orderly way at the beginning, new ones pass |
    | `torn` | each connection is reset after some more bytes, in the middle of a message |
    | `refuse` | all connections are reset, and new ones are refused |
    | `silent` | nothing passes, nobody is told; what was sent arrives when it is over |
    | `half-open` | the same for good on the connections that were there, as behind a router that forgot them; new ones pass |
    | `deaf` | the server hears nothing; what it says arrives |
    | `mute` | the server hears everything; what it says does not arrive: work is done and nobody learns it |

    What was held back by `deaf` and `mute` is lost with its connection when they end: the reset comes before the reply.
    """

    kind: Kind
    seconds: float
    latency_seconds: float = 0.05
    bytes_per_second: int = 20_000


def episodes(
    seed: int,
    count: int,
    kinds: Sequence[Kind] = KINDS,
    *,
    shortest: float = 0.1,
    longest: float = 0.6,
) -> list[Episode]:
    """A plan of `count` faults, each kind about equally often, in an order and of lengths that follow from the seed."""
    dice = random.Random(seed)
    plan: list[Episode] = []
    while len(plan) < count:
        shuffled = list(kinds)
        dice.shuffle(shuffled)
        plan += (Episode(kind, round(dice.uniform(shortest, longest), 3)) for kind in shuffled)
    return plan[:count]
