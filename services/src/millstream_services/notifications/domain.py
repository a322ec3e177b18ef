"""Which fact makes which letter. Pure: no database, no framework, no mail server."""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts.currencies import decimal_text
from ..contracts.order_events import OrderAdvanced, OrderCancelled, OrderConfirmed, OrderFailed
from ..contracts.payment_events import PaymentRefunded

__all__ = ["Fact", "Letter", "letter_about"]

Fact = OrderConfirmed | OrderFailed | OrderCancelled | OrderAdvanced | PaymentRefunded


@dataclass(frozen=True, slots=True)
class Letter:
    """One notification. `about` tells two of one kind apart: the payment or refund it is about, or nothing."""

    kind: str
    about: str
    customer: str
    subject: str
    text: str


def letter_about(fact: Fact) -> Letter | None:
    """The letter that a fact makes; None where nobody needs one."""
    match fact:
        case OrderConfirmed():
            total = f"{decimal_text(fact.total, fact.currency)} {fact.currency}"
            subject = f"Your order {fact.order_id} is confirmed"
            return Letter("order.confirmed", "", fact.customer, subject, f"We have received your payment of {total}.")
        case OrderFailed():
            subject = f"The payment of your order {fact.order_id} failed"
            text = f"The reason given is: {fact.reason}. You can pay again with another method."
            return Letter("order.failed", fact.payment_id, fact.customer, subject, text)
        case OrderCancelled():
            subject = f"Your order {fact.order_id} is cancelled"
            return Letter("order.cancelled", "", fact.customer, subject, "What you have paid comes back to you.")
        case OrderAdvanced(state="OUT_FOR_DELIVERY"):
            subject = f"Your order {fact.order_id} is on its way"
            return Letter("order.out_for_delivery", "", fact.customer, subject, "It arrives soon.")
        case OrderAdvanced(state="DELIVERED"):
            subject = f"Your order {fact.order_id} was delivered"
            return Letter("order.delivered", "", fact.customer, subject, "Thank you.")
        case OrderAdvanced():
            return None
        case PaymentRefunded():
            amount = f"{decimal_text(fact.amount, fact.currency)} {fact.currency}"
            subject = f"We have refunded {amount} of your order {fact.order_id}"
            return Letter("payment.refunded", fact.refund_id, fact.owner, subject, "It is on its way to your account.")
