"""The orders service at a glance."""

from __future__ import annotations

from collections.abc import AsyncIterator

from millstream import Retry, Service
from millstream.ids import Ids
from millstream.service.context import ServiceContext

from ..contracts.order_events import OrderAdvanced, OrderCancelled, OrderPlaced, RefundDue
from ..contracts.orders import Orders
from ..contracts.payment_events import PaymentFailed, PaymentOpened, PaymentSucceeded
from . import handlers

__all__ = ["orders"]

orders = Service("orders", migrations="sql")

orders.rpc(Orders.place_order, idempotent=True)(handlers.place_order)
orders.rpc(Orders.get_order)(handlers.get_order)
orders.rpc(Orders.list_orders)(handlers.list_orders)
orders.rpc(Orders.cancel_order)(handlers.cancel_order)
orders.rpc(Orders.advance_order)(handlers.advance_order)

# One subscription for all of them: what happened to a payment is only true in the order in which it happened.
orders.on(PaymentOpened, PaymentSucceeded, PaymentFailed, name="follow-payment", retry=Retry(attempts=8, cap="1m"))(
    handlers.follow_payment
)

orders.emits(OrderPlaced, OrderCancelled, OrderAdvanced, RefundDue)


@orders.resource(Ids)
async def ids(context: ServiceContext) -> AsyncIterator[Ids]:
    """Ids of orders and payments: they sort by time."""
    yield Ids(context.entropy, lambda: context.clock.now_us() // 1000)
