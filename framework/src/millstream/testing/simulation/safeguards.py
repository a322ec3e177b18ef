"""The registry of safeguards: which rule it is, how a run does without it, and the scenario that must catch that."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import Misconfigured
from .removal import Removal
from .removals import consumption, publishing

__all__ = ["SAFEGUARDS", "Safeguard", "safeguard_named"]


class Safeguard(NamedTuple):
    """rule: its number in the design. scenario: the name of one that catches the removal. about: what it guards."""

    name: str
    rule: str
    scenario: str
    removal: type[Removal]
    about: str


_ALL = (
    Safeguard("inbox", "C2", "event-path", consumption.NoInbox, "a repeat is recognised by its (source, id)"),
    Safeguard(
        "position-inside-the-transaction",
        "C1",
        "killed",
        consumption.PositionApart,
        "the position moves with the work that it stands for",
    ),
    Safeguard(
        "lane-check",
        "F1",
        "hot-key",
        consumption.NoLaneCheck,
        "what comes behind a parked message of its key waits behind it",
    ),
    Safeguard(
        "outbox-inside-the-transaction",
        "T4",
        "killed",
        publishing.OutboxApart,
        "events are written by the transaction that causes them",
    ),
    Safeguard(
        "deletion-after-confirmation",
        "R1",
        "event-path",
        publishing.EarlyConfirmation,
        "a row stays until the log has confirmed it",
    ),
    Safeguard(
        "confirmed-prefix-only",
        "R1",
        "event-path",
        publishing.WholeBatchConfirmed,
        "only the confirmed rows of a batch are deleted",
    ),
    Safeguard(
        "committed-rows-only",
        "R1",
        "failing-disk",
        publishing.UncommittedRows,
        "the relay sees rows once they are committed",
    ),
    Safeguard(
        "stop-behind-a-gap",
        "L2",
        "hot-key",
        publishing.GoesOnBehindAGap,
        "no later record of a key is taken while an earlier one is not",
    ),
    Safeguard(
        "answer-after-commit",
        "T2",
        "killed",
        publishing.AnswerBeforeCommit,
        "nobody is answered before the commit is durable",
    ),
)

SAFEGUARDS: dict[str, Safeguard] = {safeguard.name: safeguard for safeguard in _ALL}


def safeguard_named(name: str) -> Safeguard:
    """A safeguard.

    Raises:
        Misconfigured: there is none of this name; lists those there are.
    """
    found = SAFEGUARDS.get(name)
    if found is None:
        raise Misconfigured(f"there is no safeguard {name!r}; there are: {', '.join(SAFEGUARDS)}")
    return found
