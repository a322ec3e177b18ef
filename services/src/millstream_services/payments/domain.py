"""What a payment is and what an answer of the provider does to it. Pure: no database, no framework.

A payment (the intent) and the attempts to charge it are separate things. An attempt whose outcome nobody knows is
*unknown*, which is not failed: money may have moved. Only the provider's own word ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "MOVES",
    "OPEN",
    "REFUND_MOVES",
    "Answer",
    "Outcome",
    "Step",
    "ask_delay",
    "attempts_of",
    "refundable",
    "step_after",
]

MOVES = {"CREATED": ("PROCESSING",), "PROCESSING": ("SUCCESS", "FAILED")}
REFUND_MOVES = {"REQUESTED": ("DONE", "FAILED")}


class Outcome(StrEnum):
    """Of one attempt."""

    STARTED = "started"  # the provider was not heard yet
    PENDING = "pending"  # it accepted, and will settle later
    UNKNOWN = "unknown"  # it did not answer; it may have charged
    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    ERROR = "error"  # it said that it could not; nothing was charged by this try
    GIVEN_UP = "given_up"  # it never settled; cancelled there, so it never will


OPEN = (Outcome.STARTED, Outcome.PENDING, Outcome.UNKNOWN)
"""Outcomes that can still change."""


class Answer(StrEnum):
    """What is known of a charge after a call, a question or a webhook."""

    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    PENDING = "pending"
    UNKNOWN = "unknown"
    NOT_FOUND = "not_found"  # asked about it, the provider knows of no such charge
    CANCELLED = "cancelled"  # it will never be charged any more


class Step(StrEnum):
    """What to do with a payment after an answer."""

    CAPTURE = "capture"
    FAIL = "fail"
    GIVE_UP = "give_up"  # fail, and tell a person
    WAIT = "wait"  # note it; a webhook or the next question brings more
    CHARGE_AGAIN = "charge_again"  # under the same key, so that it cannot be charged twice
    STALE = "stale"  # older than what is known; refused and recorded
    NOTHING = "nothing"


def step_after(answer: Answer, open_outcome: Outcome | None) -> Step:
    """What an answer asks for, given the outcome so far of the payment's open attempt (None: none is open).

    Where none is open the payment is settled: an answer that says the same is a repeat, and one that says otherwise is
    refused and recorded when the state machine is asked.
    """
    match answer:
        case Answer.SUCCEEDED:
            return Step.CAPTURE
        case Answer.DECLINED:
            return Step.FAIL
        case Answer.CANCELLED:
            return Step.GIVE_UP
        case Answer.PENDING:
            return Step.STALE if open_outcome is None else Step.WAIT
        case Answer.UNKNOWN:
            # A provider that said "pending" once has the charge; a later silence takes nothing back.
            return Step.WAIT if open_outcome in (Outcome.STARTED, Outcome.UNKNOWN) else Step.NOTHING
        case Answer.NOT_FOUND:
            # While it is only started the call may be on its way; once it went unanswered, it never arrived.
            return Step.CHARGE_AGAIN if open_outcome is Outcome.UNKNOWN else Step.NOTHING


def ask_delay(asked: int, first_us: int) -> int:
    """Microseconds until the next question, after `asked` questions: doubling, at most a minute."""
    return min(first_us << min(asked, 20), 60_000_000)


def refundable(captured: int, reserved: int) -> int:
    """What may still be promised to refunds. `reserved` counts those under way and those done."""
    return max(captured - reserved, 0)


@dataclass(frozen=True, slots=True)
class Try:
    """One line of a payment's attempts."""

    n: int
    outcome: Outcome


def attempts_of(n: int, tries: int, outcome: Outcome) -> list[Try]:
    """The attempts that a call stands for which began as number `n` and answered at its `tries`-th try: each try
    before the last said that it could not."""
    return [*(Try(n + i, Outcome.ERROR) for i in range(tries - 1)), Try(n + tries - 1, outcome)]
