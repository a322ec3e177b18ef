"""The error tree. Branches say what the caller can do; leaves carry fields and name the fix.

MillstreamError
├── Transient            try again later; nothing was done, or it is unknown whether it was done
│   ├── StoreUnavailable     the database is away, or ended the transaction
│   ├── TransportUnavailable the log is away; what was not confirmed must be published again
│   └── Busy                 a bound is reached; wait or shed
├── Permanent            trying the same again cannot help
│   ├── Undecodable          bytes that are no message, or no event of the declared type
│   ├── BadStatement         SQL that the store cannot run
│   ├── Refused              a business rule said no
│   │   └── Mismatch             a compare-and-set changed another number of rows than it expects
│   ├── RecordRefused        the log will never take this record (too large, unauthorised)
│   ├── PositionGone         retention removed the position a subscription stands at
│   └── ForeignWait          a handler waited for something else than its database inside a transaction
├── Conflict             a constraint of the database refused a row (unique, check, foreign key)
├── Drop                 a handler asks to forget the message: accepted, without effect
├── ClaimLost            another worker consumes the partition now; the open transaction is dropped
└── Misconfigured        a person must change configuration or code before it can start
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BadStatement",
    "Busy",
    "ClaimLost",
    "Conflict",
    "Drop",
    "ForeignWait",
    "MillstreamError",
    "Misconfigured",
    "Mismatch",
    "Permanent",
    "PositionGone",
    "RecordRefused",
    "Refused",
    "StoreUnavailable",
    "Transient",
    "TransportUnavailable",
    "Undecodable",
]


class MillstreamError(Exception):
    """Root of every error that Millstream raises on purpose."""


class Transient(MillstreamError):
    """The same call may succeed later."""


class StoreUnavailable(Transient):
    """The store is away or ended the transaction (disk full, I/O error, connection lost)."""


class TransportUnavailable(Transient):
    """The log is away. Records that it did not confirm must be published again."""


class Busy(Transient):
    """A bound was reached: a queue, a limit of connections, a limit of parked messages."""


class Permanent(MillstreamError):
    """Trying the same again cannot help. A handler that raises it makes a dead letter at once."""


class Undecodable(Permanent):
    """Bytes that are not a message, or a payload that is not the declared event."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be decoded: {reason}")
        self.what = what
        self.reason = reason


class BadStatement(Permanent):
    """SQL that the store cannot run. Carries the engine's own words."""


class Refused(Permanent):
    """A business rule said no. Its text is told to the caller."""


class Mismatch(Refused):
    """A compare-and-set changed another number of rows than `tx.expect` was told. Its text names the statement: for
    operators, and never for callers."""


class RecordRefused(Permanent):
    """The log will never take this record. The relay holds its key until an operator decides.

    `index` is the refused record's place in the published sequence; the records before it are durable.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"record {index} is refused for good: {reason}")
        self.index = index
        self.reason = reason


class PositionGone(Permanent):
    """Retention removed records that a subscription has not read. Never skipped silently (rule L4)."""

    def __init__(self, topic: str, partition: int, position: int, earliest: int) -> None:
        super().__init__(
            f"{topic}/{partition}: records after position {position} are gone, the earliest left stands at {earliest}. "
            "Choose: restore the log that this store has read so far, or go on with "
            f"`millstream lanes skip --to {earliest}` and accept the loss."
        )
        self.topic = topic
        self.partition = partition
        self.position = position
        self.earliest = earliest


class ForeignWait(Permanent):
    """A coroutine inside a transaction waited for something else than its database (rule T3)."""

    def __init__(self, where: str, waiting_for: str) -> None:
        super().__init__(
            f"tx: waiting for something else than the database at {where} ({waiting_for}). "
            "Move it to an effect or a saga step."
        )
        self.where = where
        self.waiting_for = waiting_for


class Conflict(MillstreamError):
    """A constraint of the database refused a row. Retried by default: what it collides with may be on its way out."""


class Drop(MillstreamError):
    """Raised by a handler: accept the message and forget it, without effect and without a dead letter."""


class ClaimLost(MillstreamError):
    """The partition has another holder, or its position moved: this transaction must not commit."""


class Misconfigured(MillstreamError):
    """Configuration or declarations are wrong. Lists every problem found, not only the first."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))
