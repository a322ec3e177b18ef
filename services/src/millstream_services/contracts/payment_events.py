"""Facts about payments (topic `payments`) and refunds (topic `refunds`), each in order per order id.

Amounts are in minor units of `currency`. Refunds have a topic of their own because who follows the payment of an order
need not read them, and the other way round.
"""

from __future__ import annotations

from millstream import Event

__all__ = ["PaymentFailed", "PaymentOpened", "PaymentRefunded", "PaymentSucceeded", "RefundFailed"]


class PaymentOpened(Event, topic="payments", key="order_id", version=1):
    """A client opened a payment for an order that waits for one, or whose last one failed. A payment that the order
    asked for when it was placed is not announced."""

    order_id: str
    payment_id: str
    amount: int
    currency: str


class PaymentSucceeded(Event, topic="payments", key="order_id", version=1):
    """The whole amount was captured and booked."""

    order_id: str
    payment_id: str
    owner: str
    amount: int
    currency: str


class PaymentFailed(Event, topic="payments", key="order_id", version=1):
    """Nothing was captured, and nothing will be under this payment."""

    order_id: str
    payment_id: str
    owner: str
    reason: str


class PaymentRefunded(Event, topic="refunds", key="order_id", version=1):
    """A refund reached the provider's book. `refunded` is the sum over all refunds of the payment."""

    order_id: str
    payment_id: str
    refund_id: str
    owner: str
    amount: int
    refunded: int
    currency: str


class RefundFailed(Event, topic="refunds", key="order_id", version=1):
    """The provider refused a refund; an operator has a case about it."""

    order_id: str
    payment_id: str
    refund_id: str
    owner: str
    amount: int
    reason: str
