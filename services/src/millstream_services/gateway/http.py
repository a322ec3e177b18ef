"""The routes that clients use. Each calls the service that owns the data, which also decides whether it is theirs.

A route with an idempotency key passes it on: the record of the key lies in the owner's transaction. What is not the
caller's answers 404, in the same words as what does not exist.
"""

from __future__ import annotations

from millstream import Caller
from millstream.contracts import RpcError, Status
from millstream.http import Accepted, Created, Headers, Problem, Reply

from ..contracts.notifications import Notifications
from ..contracts.notifications import pb as notifications_pb
from ..contracts.orders import Orders, state_number
from ..contracts.orders import pb as orders_pb
from ..contracts.payments import Payments
from ..contracts.payments import pb as payments_pb
from .bodies import (
    Advance,
    NewOrder,
    NewPayment,
    NewRefund,
    NotificationBody,
    Order,
    OrderInFull,
    Payment,
    RefundBody,
    full_order,
    notification_body,
    order_request,
    payment_body,
    placed_order,
    short_order,
)

__all__ = [
    "advance_order",
    "cancel_order",
    "create_payment",
    "create_refund",
    "get_order",
    "get_payment",
    "list_notifications",
    "list_orders",
    "place_order",
    "receive_webhook",
]

PROVIDER = Caller(subject="provider", roles=("provider",))


async def place_order(body: NewOrder, caller: Caller, orders: Orders) -> Created[Order]:
    """Place an order; it is paid behind the reply."""
    placed = await orders.place_order(order_request(body), caller=caller)
    return Created(placed_order(body, placed), location=f"/orders/{placed.id}")


async def get_order(order_id: str, caller: Caller, orders: Orders) -> OrderInFull:
    """One order with its payment and history."""
    found = await orders.get_order(orders_pb.GetOrderRequest(id=order_id), caller=caller)
    return full_order(found.order)


async def list_orders(caller: Caller, orders: Orders, limit: int = 50, after: str = "") -> Reply[list[Order]]:
    """Orders, newest first; `Link` names the next page."""
    limit = _limit(limit, 500)
    found = await orders.list_orders(orders_pb.ListOrdersRequest(limit=limit, after=after), caller=caller)
    link = {"link": f'</orders?limit={limit}&after={found.next}>; rel="next"'} if found.next else {}
    return Reply([short_order(order) for order in found.orders], headers=link)


async def cancel_order(order_id: str, caller: Caller, orders: Orders) -> OrderInFull:
    """Cancel a pending or confirmed order; what was paid comes back."""
    answer = await orders.cancel_order(orders_pb.CancelOrderRequest(id=order_id), caller=caller)
    return _moved(answer.done, full_order(answer.order), "be cancelled")


async def advance_order(order_id: str, body: Advance, caller: Caller, orders: Orders) -> OrderInFull:
    """Bring a confirmed order one state on."""
    request = orders_pb.AdvanceOrderRequest(id=order_id, to=state_number(body.state))
    answer = await orders.advance_order(request, caller=caller)
    return _moved(answer.done, full_order(answer.order), f"become {body.state}")


async def create_payment(body: NewPayment, caller: Caller, orders: Orders, payments: Payments) -> Created[Payment]:
    """Pay an order that waits for a payment, or try a failed one again."""
    # What this asks of the order never changes, so a repeat sends the payments service the same request.
    order = (await orders.get_order(orders_pb.GetOrderRequest(id=body.order_id), caller=caller)).order
    request = payments_pb.CreatePaymentRequest(
        order_id=order.id, method=body.method, amount=order.total, currency=order.currency, owner=order.owner
    )
    created = (await payments.create_payment(request, caller=caller)).payment
    return Created(payment_body(created), location=f"/payments/{created.id}")


async def get_payment(payment_id: str, caller: Caller, payments: Payments, orders: Orders) -> Payment:
    """One payment with its attempts. From the moment an order names its payment this finds it: until the payments
    service has heard of it, it is as the order asked for it."""
    request = payments_pb.GetPaymentRequest(id=payment_id)
    try:
        return payment_body((await payments.get_payment(request, caller=caller)).payment)
    except RpcError as error:
        if error.status != Status.NOT_FOUND:
            raise
    try:
        waiting = (await orders.get_order(orders_pb.GetOrderRequest(payment_id=payment_id), caller=caller)).order
    except RpcError as error:
        if error.status != Status.NOT_FOUND:
            raise
        # Nobody's, or settled between the two questions: the payments service has the last word.
        return payment_body((await payments.get_payment(request, caller=caller)).payment)
    return Payment(payment_id, waiting.id, "CREATED", waiting.total, 0, 0, [])


async def create_refund(payment_id: str, body: NewRefund, caller: Caller, payments: Payments) -> Accepted[RefundBody]:
    """Give money back, in part or whole."""
    request = payments_pb.RefundPaymentRequest(payment_id=payment_id, amount=body.amount)
    refund = await payments.refund_payment(request, caller=caller)
    answer = RefundBody(refund.id, refund.payment_id, refund.amount, refund.state)
    return Accepted(answer, location=f"/payments/{payment_id}")


async def list_notifications(
    order: str, caller: Caller, notifications: Notifications, orders: Orders
) -> list[NotificationBody]:
    """What the customer of an order was told, oldest first."""
    request = notifications_pb.ListNotificationsRequest(order_id=order)
    found = (await notifications.list_notifications(request, caller=caller)).notifications
    if not found:
        # Nothing yet, or nothing that the caller may know of: the orders service knows which.
        await orders.get_order(orders_pb.GetOrderRequest(id=order), caller=caller)
    return [notification_body(notification) for notification in found]


async def receive_webhook(body: bytes, headers: Headers, payments: Payments) -> dict[str, bool]:
    """What the payment provider tells by itself. No token: the body is signed."""
    signature = headers.get("webhook-signature")
    if signature is None:
        raise Problem(401, "the header Webhook-Signature is missing", problem="bad-signature")
    request = payments_pb.ReceiveWebhookRequest(body=body, signature=signature)
    answer = await payments.receive_webhook(request, caller=PROVIDER)
    return {"fresh": answer.fresh}


def _moved(done: bool, order: OrderInFull, what: str) -> OrderInFull:
    if not done:
        raise Problem(409, f"an order that is {order.state} cannot {what}", problem="order-state")
    return order


def _limit(limit: int, most: int) -> int:
    if not 1 <= limit <= most:
        raise Problem(422, f"query parameter limit: must be 1 to {most}", problem="invalid-request")
    return limit
