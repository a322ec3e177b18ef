"""Refunds: partial, several, never more than was captured, also when many are asked for at once."""

from __future__ import annotations

from millstream import Tx

from ..contracts.payment_events import PaymentRefunded, RefundFailed
from . import ledger_store
from .cases import open_case
from .domain import refundable
from .events import RefundAnswered, RefundRequested
from .ledger import PROVIDER, REFUNDS
from .provider import PaymentProvider, Refund
from .settings import PaymentSettings
from .store import (
    StoredPayment,
    find_payment,
    find_refund,
    insert_refund,
    refund_states,
    release_refund,
    reserve_refund,
)

__all__ = ["apply_refund", "begin_refund", "refund", "refund_rest"]


async def begin_refund(
    tx: Tx, payment: StoredPayment, refund_id: str, amount: int, settings: PaymentSettings
) -> RefundRequested | None:
    """Reserve an amount and ask for its return; None when that much is not left."""
    if not await reserve_refund(tx, payment.id, amount):
        return None
    await insert_refund(tx, refund_id, payment.id, amount, settings.start_limit_us)
    await ledger_store.hold(tx, refund_id, payment.currency, REFUNDS, PROVIDER, amount)
    return RefundRequested(refund_id, payment.id, payment.ref, amount, payment.currency)


async def refund_rest(tx: Tx, payment_id: str, refund_id: str, settings: PaymentSettings) -> RefundRequested | None:
    """Give back all that is left of a payment. Asked for twice, under the same id, it is done once."""
    payment = await find_payment(tx, payment_id)
    if payment is None or await find_refund(tx, refund_id) is not None:
        return None
    rest = refundable(payment.captured, payment.reserved)
    return await begin_refund(tx, payment, refund_id, rest, settings) if rest else None


async def refund(event: RefundRequested, provider: PaymentProvider) -> RefundAnswered:
    """Ask the provider to give money back. Unanswered, it is simply asked again: the refund's id is its key, and a key
    is given back once."""
    refunded = await provider.refund(Refund(event.refund_id, event.payment_id, event.ref, event.amount, event.currency))
    return RefundAnswered(event.refund_id, event.payment_id, refunded.done, refunded.ref, refunded.reason)


async def apply_refund(event: RefundAnswered, tx: Tx) -> PaymentRefunded | RefundFailed | None:
    """What the provider said becomes true: booked, or the amount is free again and a person looks at it."""
    row = await find_refund(tx, event.refund_id)
    payment = await find_payment(tx, event.payment_id)
    if row is None or payment is None:
        await open_case(tx, "missing_here", event.refund_id, "the provider answers for an unknown refund")
        return None
    change = {"ref": event.ref, "reason": event.reason, "ask_at": None}
    to = "DONE" if event.done else "FAILED"
    if not await refund_states.move(tx, row.id, to, why="the provider answered", change=change, silent=(to,)):
        return None
    refunded = await release_refund(tx, payment.id, row.amount, done=event.done)
    await ledger_store.settle(tx, row.id, post=event.done)
    if event.done:
        return PaymentRefunded(
            payment.order_id, payment.id, row.id, payment.owner, row.amount, refunded, payment.currency
        )
    await open_case(tx, "refund_failed", row.id, f"{row.amount} {payment.currency} of {payment.id}: {event.reason}")
    return RefundFailed(payment.order_id, payment.id, row.id, payment.owner, row.amount, event.reason)
