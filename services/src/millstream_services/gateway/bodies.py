"""The JSON that clients send and get. Amounts are integers in minor units, times RFC 3339."""

from __future__ import annotations

from typing import Annotated

import msgspec
from millstream.message import format_time

from ..contracts import orders, payments
from ..contracts.notifications import pb as notifications_pb

__all__ = [
    "Advance",
    "Attempt",
    "Balance",
    "Case",
    "NewOrder",
    "NewPayment",
    "NewRefund",
    "NotificationBody",
    "Order",
    "OrderInFull",
    "Payment",
    "Reconciliation",
    "RefundBody",
    "Resolution",
    "case_body",
    "full_order",
    "notification_body",
    "order_request",
    "payment_body",
    "placed_order",
    "short_order",
]


class Line(msgspec.Struct, frozen=True):
    """`amount` is of the whole line, not of one piece."""

    product: str
    quantity: int
    amount: int


class Method(msgspec.Struct, frozen=True):
    """How to pay."""

    method: Annotated[str, msgspec.Meta(min_length=1)]


class NewOrder(msgspec.Struct, frozen=True):
    """An order to place. Without `payment` it waits for `POST /payments`."""

    customer: str
    currency: str
    lines: list[Line]
    total: int
    payment: Method | None = None


class Order(msgspec.Struct, frozen=True):
    """An order."""

    id: str
    state: str
    customer: str
    currency: str
    lines: list[Line]
    total: int
    created_at: str


class OrderPayment(msgspec.Struct, frozen=True):
    """The newest payment of an order."""

    id: str
    state: str


class StateChange(msgspec.Struct, frozen=True):
    """A state that an order came into."""

    state: str
    at: str


class OrderInFull(Order, frozen=True):
    """An order with its payment, null while there is none, and its states, oldest first."""

    payment: OrderPayment | None
    history: list[StateChange]


class Advance(msgspec.Struct, frozen=True):
    """The state to bring an order into: PREPARING, OUT_FOR_DELIVERY or DELIVERED."""

    state: str


class NewPayment(msgspec.Struct, frozen=True):
    """A payment of an order that waits for one, or whose last one failed."""

    order_id: str
    method: str


class Attempt(msgspec.Struct, frozen=True):
    """One try to charge. outcome: started, pending, unknown, succeeded, declined, error or given_up."""

    n: int
    outcome: str
    at: str


class Payment(msgspec.Struct, frozen=True):
    """A payment."""

    id: str
    order_id: str
    state: str
    amount: int
    captured: int
    refunded: int
    attempts: list[Attempt]


class NewRefund(msgspec.Struct, frozen=True):
    """How much to give back."""

    amount: int


class RefundBody(msgspec.Struct, frozen=True):
    """A refund that was asked for."""

    id: str
    payment_id: str
    amount: int
    state: str


class NotificationBody(msgspec.Struct, frozen=True):
    """What a customer was told."""

    order: str
    kind: str
    at: str


class Balance(msgspec.Struct, frozen=True):
    """Sums of debit and credit balances."""

    debit: int
    credit: int


class Case(msgspec.Struct, frozen=True):
    """What a person has to look at."""

    id: int
    kind: str
    subject: str
    detail: str
    open: bool
    opened_at: str
    resolution: str


class Resolution(msgspec.Struct, frozen=True):
    """What was done about a case."""

    resolution: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class Reconciliation(msgspec.Struct, frozen=True):
    """A comparison with the provider's book."""

    id: str
    state: str
    compared: int
    resolved: int
    cases: int
    started_at: str


def order_request(body: NewOrder) -> orders.pb.PlaceOrderRequest:
    """A new order as the orders service takes it."""
    line = orders.pb.OrderLine
    return orders.pb.PlaceOrderRequest(
        customer=body.customer,
        currency=body.currency,
        lines=[line(product=x.product, quantity=x.quantity, amount=x.amount) for x in body.lines],
        total=body.total,
        payment_method="" if body.payment is None else body.payment.method,
    )


def placed_order(body: NewOrder, placed: orders.pb.PlaceOrderResponse) -> Order:
    """The order that a client just placed: what it sent, and what the service made of it."""
    state, created_at = orders.state_name(placed.state), format_time(placed.created_at_us)
    return Order(placed.id, state, body.customer, body.currency, body.lines, body.total, created_at)


def short_order(order: orders.pb.Order) -> Order:
    """An order of a list."""
    return Order(
        id=order.id,
        state=orders.state_name(order.state),
        customer=order.customer,
        currency=order.currency,
        lines=_lines(order),
        total=order.total,
        created_at=format_time(order.created_at_us),
    )


def full_order(order: orders.pb.Order) -> OrderInFull:
    """One order."""
    has_payment = order.HasField("payment")
    return OrderInFull(
        id=order.id,
        state=orders.state_name(order.state),
        customer=order.customer,
        currency=order.currency,
        lines=_lines(order),
        total=order.total,
        created_at=format_time(order.created_at_us),
        payment=OrderPayment(order.payment.id, order.payment.state) if has_payment else None,
        history=[StateChange(orders.state_name(change.state), format_time(change.at_us)) for change in order.history],
    )


def payment_body(payment: payments.pb.Payment) -> Payment:
    """A payment."""
    return Payment(
        id=payment.id,
        order_id=payment.order_id,
        state=payments.state_name(payment.state),
        amount=payment.amount,
        captured=payment.captured,
        refunded=payment.refunded,
        attempts=[Attempt(a.n, a.outcome, format_time(a.at_us)) for a in payment.attempts],
    )


def case_body(case: payments.pb.Case) -> Case:
    """A case."""
    opened_at = format_time(case.opened_at_us)
    return Case(case.id, case.kind, case.subject, case.detail, case.open, opened_at, case.resolution)


def notification_body(notification: notifications_pb.Notification) -> NotificationBody:
    """A notification."""
    return NotificationBody(notification.order_id, notification.kind, format_time(notification.at_us))


def _lines(order: orders.pb.Order) -> list[Line]:
    return [Line(line.product, line.quantity, line.amount) for line in order.lines]
