"""What the payments service tells itself: questions to the provider and its answers. Keyed by payment.

Not for other services: their facts are in `contracts.payment_events`.
"""

from __future__ import annotations

from millstream import Event

from .domain import Answer
from .provider import BookEntry

__all__ = [
    "AskRequested",
    "BookRead",
    "BookRequested",
    "ChargeRequested",
    "ProviderAnswered",
    "RefundAnswered",
    "RefundRequested",
]


class ChargeRequested(Event, topic="payments.charges", key="payment_id", version=1):
    """Charge this; attempt number `n` has begun."""

    payment_id: str
    order_id: str
    n: int
    method: str
    amount: int
    currency: str


class AskRequested(Event, topic="payments.questions", key="payment_id", version=1):
    """Ask what became of a charge. `last`: time is up, see to it that it is never charged."""

    payment_id: str
    n: int
    last: bool = False


class ProviderAnswered(Event, topic="payments.answers", key="payment_id", version=1):
    """The provider's word about a charge, from a call (after `tries` tries) or a question."""

    payment_id: str
    n: int
    tries: int
    answer: Answer
    ref: str = ""
    reason: str = ""
    amount: int | None = None


class RefundRequested(Event, topic="payments.refunds", key="payment_id", version=1):
    """Give this back."""

    refund_id: str
    payment_id: str
    ref: str
    amount: int
    currency: str


class RefundAnswered(Event, topic="payments.refunds", key="payment_id", version=1):
    """The provider's word about a refund."""

    refund_id: str
    payment_id: str
    done: bool
    ref: str = ""
    reason: str = ""


class BookRequested(Event, topic="payments.reconciliation", key="run_id", version=1):
    """Read a page of the provider's book for a comparison."""

    run_id: str
    after: str = ""


class BookRead(Event, topic="payments.reconciliation", key="run_id", version=1):
    """A page of the provider's book."""

    run_id: str
    entries: tuple[BookEntry, ...]
    next: str
