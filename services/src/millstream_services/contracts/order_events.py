"""Facts about orders: topic `orders`, in order per order id."""

from __future__ import annotations

from millstream import Event

__all__ = ["OrderAdvanced", "OrderCancelled", "OrderConfirmed", "OrderFailed", "OrderPlaced", "RefundDue"]


class OrderPlaced(Event, topic="orders", key="order_id", version=1):
    """An order was accepted. With a method the payments service pays it at once, under the given payment id; without
    one the order waits for `PaymentOpened`. `total` is in minor units of `currency`; `owner` is the client's subject."""

    order_id: str
    owner: str
    customer: str
    currency: str
    total: int
    payment_id: str | None = None
    method: str | None = None


class OrderConfirmed(Event, topic="orders", key="order_id", version=1):
    """An order is paid."""

    order_id: str
    owner: str
    customer: str
    currency: str
    total: int
    payment_id: str


class OrderFailed(Event, topic="orders", key="order_id", version=1):
    """The payment of an order failed. Another payment may bring it back."""

    order_id: str
    owner: str
    customer: str
    payment_id: str
    reason: str


class OrderCancelled(Event, topic="orders", key="order_id", version=1):
    """An order was cancelled. What was paid comes back by a `RefundDue` of its own."""

    order_id: str
    owner: str
    customer: str


class OrderAdvanced(Event, topic="orders", key="order_id", version=1):
    """An order reached PREPARING, OUT_FOR_DELIVERY or DELIVERED."""

    order_id: str
    owner: str
    customer: str
    state: str


class RefundDue(Event, topic="orders", key="order_id", version=1):
    """Money was taken for an order that will not be delivered: all that is left of this payment has to go back."""

    order_id: str
    payment_id: str
    reason: str
