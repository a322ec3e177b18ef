"""The registry of safeguards: which rule it is, how a run does without it, and the scenario that must catch that."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import Misconfigured
from ..removals import consumption, parking, publishing
from ..removals.removal import Removal

__all__ = ["SAFEGUARDS", "Safeguard", "safeguard_named"]


class Safeguard(NamedTuple):
    """rule: its number in the design. scenario: the name of one that catches the removal. about: what it guards. shows: what
    is violated without it, as a regular expression: a stand-in that is merely broken must not count as caught."""

    name: str
    rule: str
    scenario: str
    removal: type[Removal]
    about: str
    shows: str


_ALL = (
    Safeguard(
        "inbox",
        "C2",
        "event-path",
        consumption.NoInbox,
        "a repeat is recognised by its (source, id)",
        "(booked|told|reminded): .* times",
    ),
    Safeguard(
        "position-inside-the-transaction",
        "C1",
        "killed",
        consumption.PositionApart,
        "the position moves with the work that it stands for",
        "(booked|told|reminded): .* never",
    ),
    Safeguard(
        "epoch",
        "C1",
        "takeover",
        consumption.NoEpochCheck,
        "a holder that was replaced writes nothing any more",
        "moved back|does not settle: till|(booked|told|call): .* (times|never|behind)",
    ),
    Safeguard(
        "failing-handler-is-undone",
        "C3",
        "hot-key",
        consumption.NoUndo,
        "a message that fails leaves nothing behind",
        "booked: .* times",
    ),
    Safeguard(
        "start-marker",
        "C4",
        "killing-message",
        consumption.NoStartMarker,
        "starts are counted before a parked message runs",
        "till ends again and again",
    ),
    Safeguard(
        "suspicion",
        "C4",
        "killing-message",
        consumption.NoSuspicion,
        "what an unclean holder was running runs alone",
        "till ends again and again",
    ),
    Safeguard(
        "lane-check",
        "F1",
        "hot-key",
        consumption.NoLaneCheck,
        "what comes behind a parked message of its key waits behind it",
        "booked: .* behind",
    ),
    Safeguard(
        "lane-row-stays",
        "F1",
        "hot-key",
        parking.LaneRowGoes,
        "a lane's row stays while anything of it is parked",
        "booked: .* (never|behind)",
    ),
    Safeguard(
        "parked-inside-the-transaction",
        "F1",
        "killed",
        parking.ParkedApart,
        "a message is parked by the transaction that passes it",
        "(booked|told|call): .* (never|behind)",
    ),
    Safeguard(
        "dead-letter-holds",
        "F2",
        "poison-hold",
        parking.NoHold,
        "a lane waits for its dead letter where its handler says so",
        "booked: .* behind",
    ),
    Safeguard(
        "redrive-into-its-place",
        "F2",
        "poison-hold",
        parking.RedriveBehind,
        "a redriven letter returns to its own place",
        "booked: .* behind",
    ),
    Safeguard(
        "growing-fence",
        "F4",
        "event-path",
        parking.FenceStandsStill,
        "every start of a call has a larger fence",
        "newest fence",
    ),
    Safeguard(
        "outbox-inside-the-transaction",
        "T4",
        "killed",
        publishing.OutboxApart,
        "events are written by the transaction that causes them",
        "(booked|told|reminded): .* never",
    ),
    Safeguard(
        "deletion-after-confirmation",
        "R1",
        "event-path",
        publishing.EarlyConfirmation,
        "a row stays until the log has confirmed it",
        "(booked|told): .* never",
    ),
    Safeguard(
        "confirmed-prefix-only",
        "R1",
        "event-path",
        publishing.WholeBatchConfirmed,
        "only the confirmed rows of a batch are deleted",
        "(booked|told): .* never",
    ),
    Safeguard(
        "committed-rows-only",
        "R1",
        "failing-disk",
        publishing.UncommittedRows,
        "the relay sees rows once they are committed",
        "(booked|told): .* (times|never|never committed)",
    ),
    Safeguard(
        "refused-row-stays",
        "R3",
        "refused-record",
        publishing.RefusedIsDropped,
        "a row that the log refuses waits for an operator",
        "booked: .* never",
    ),
    Safeguard(
        "timer-in-one-transaction",
        "R4",
        "killed",
        publishing.TimerApart,
        "a timer becomes an outbox row in one transaction",
        "reminded: .* never",
    ),
    Safeguard(
        "stop-behind-a-gap",
        "L2",
        "hot-key",
        publishing.GoesOnBehindAGap,
        "no later record of a key is taken while an earlier one is not",
        "(booked|told): .* behind",
    ),
    Safeguard(
        "stored-reply",
        "T2",
        "hundred-requests",
        publishing.NoStoredReply,
        "a request that comes again gets the reply of the first",
        "took effect .* times",
    ),
    Safeguard(
        "answer-after-commit",
        "T2",
        "killed",
        publishing.AnswerBeforeCommit,
        "nobody is answered before the commit is durable",
        "was promised|answered",
    ),
    Safeguard(
        "synced-commit",
        "T1",
        "power-loss",
        publishing.Unsynced,
        "a commit is on the disk before anybody is answered",
        "never|was promised|answered|corrupt|malformed|does not settle",
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
