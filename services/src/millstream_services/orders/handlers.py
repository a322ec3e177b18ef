"""What the orders service does: its contract's methods, and what payments mean for orders."""

from __future__ import annotations

from millstream import Caller, Query, Tx
from millstream.contracts import RpcError, Status
from millstream.ids import Ids

from ..contracts.order_events import OrderAdvanced, OrderCancelled, OrderConfirmed, OrderFailed, OrderPlaced, RefundDue
from ..contracts.orders import pb, state_name, state_number
from ..contracts.payment_events import PaymentFailed, PaymentOpened, PaymentSucceeded
from .domain import ADVANCES, Line, NewOrder, keeps_money, problems_of
from .store import StoredOrder, find_order, find_waiting_order, history_of, insert_order, order_states
from .store import list_orders as stored_orders

__all__ = ["advance_order", "cancel_order", "follow_payment", "get_order", "list_orders", "place_order"]

PAGE_LIMIT = 500


async def place_order(request: pb.PlaceOrderRequest, caller: Caller, tx: Tx, ids: Ids) -> pb.PlaceOrderResponse:
    """Accept an order for its caller, or refuse it with every problem named."""
    lines = [Line(line.product, line.quantity, line.amount) for line in request.lines]
    order = NewOrder(request.customer, request.currency, lines, request.total, request.payment_method or None)
    problems = problems_of(order)
    if problems:
        raise RpcError(
            Status.INVALID_ARGUMENT,
            str(problems[0]),
            problem="invalid-order",
            errors=tuple({"at": problem.at, "message": problem.message} for problem in problems),
        )
    order_id = ids.new()
    payment_id = ids.new() if order.method else None
    await insert_order(tx, order_id, caller.subject, order, payment_id)
    tx.publish(
        OrderPlaced(order_id, caller.subject, order.customer, order.currency, order.total, payment_id, order.method)
    )
    return pb.PlaceOrderResponse(id=order_id, state=pb.ORDER_STATE_PENDING, created_at_us=tx.now_us)


async def get_order(request: pb.GetOrderRequest, caller: Caller, query: Query) -> pb.GetOrderResponse:
    """One order with its payment and history."""
    order_id = request.id
    if request.payment_id:
        waiting = await find_waiting_order(query, request.payment_id)
        order_id = "" if waiting is None else waiting.id
    order = await _own(query, order_id, caller)
    return pb.GetOrderResponse(order=await _in_full(query, order))


async def list_orders(request: pb.ListOrdersRequest, caller: Caller, query: Query) -> pb.ListOrdersResponse:
    """The caller's orders; for operators everybody's."""
    limit = request.limit or 50
    if not 1 <= limit <= PAGE_LIMIT:
        raise RpcError(Status.INVALID_ARGUMENT, f"limit must be 1 to {PAGE_LIMIT}")
    owner = None if caller.may("operator") else caller.subject
    found = await stored_orders(query, owner, request.after, limit + 1)
    return pb.ListOrdersResponse(
        orders=[_message(order) for order in found[:limit]], next=found[limit - 1].id if len(found) > limit else ""
    )


async def cancel_order(request: pb.CancelOrderRequest, caller: Caller, tx: Tx) -> pb.CancelOrderResponse:
    """Cancel a pending or confirmed order. What was paid goes back."""
    order = await _own(tx, request.id, caller)
    if order.state == "CANCELLED":
        return pb.CancelOrderResponse(order=await _in_full(tx, order), done=True)
    done = await order_states.move(tx, order.id, "CANCELLED", why=f"cancelled by {caller.subject}")
    if done:
        tx.publish(OrderCancelled(order.id, order.owner, order.customer))
        if order.state == "CONFIRMED" and order.payment_id is not None:
            tx.publish(RefundDue(order.id, order.payment_id, "the order was cancelled"))
    return pb.CancelOrderResponse(order=await _again(tx, order), done=done)


async def advance_order(request: pb.AdvanceOrderRequest, caller: Caller, tx: Tx) -> pb.AdvanceOrderResponse:
    """Bring a confirmed order one state on."""
    if not caller.may("operator"):
        raise RpcError(Status.PERMISSION_DENIED, "only operators move orders on")
    order = await _own(tx, request.id, caller)
    to = state_name(request.to)
    if to not in ADVANCES:
        raise RpcError(Status.INVALID_ARGUMENT, f"an order can be brought into {', '.join(ADVANCES)}")
    done = await order_states.move(tx, order.id, to, why=f"moved by {caller.subject}", silent=(to,))
    if done:
        tx.publish(OrderAdvanced(order.id, order.owner, order.customer, to))
    return pb.AdvanceOrderResponse(order=await _again(tx, order), done=done or order.state == to)


async def follow_payment(
    event: PaymentOpened | PaymentSucceeded | PaymentFailed, tx: Tx
) -> OrderConfirmed | OrderFailed | RefundDue | None:
    """What a payment's fate means for its order. A payment that no longer fits the order's state moves nothing; if it
    took money, the money goes back."""
    if isinstance(event, PaymentSucceeded):
        return await _paid(event, tx)
    if isinstance(event, PaymentFailed):
        return await _unpaid(event, tx)
    await _opened(event, tx)
    return None


async def _paid(event: PaymentSucceeded, tx: Tx) -> OrderConfirmed | RefundDue | None:
    done = await order_states.move(
        tx, event.order_id, "CONFIRMED", why="payment succeeded", change={"payment_state": "SUCCESS"},
        only="payment_id = ?", given=(event.payment_id,),
    )  # fmt: skip
    order = await find_order(tx, event.order_id)
    if done and order is not None:
        return OrderConfirmed(order.id, order.owner, order.customer, order.currency, order.total, event.payment_id)
    if order is not None and keeps_money(order.state, order.payment_id, event.payment_id):
        return None
    if order is not None and order.payment_id == event.payment_id:
        await tx.execute("UPDATE orders SET payment_state = 'SUCCESS' WHERE id = ?", event.order_id)
    return RefundDue(event.order_id, event.payment_id, "the order does not wait for this payment")


async def _unpaid(event: PaymentFailed, tx: Tx) -> OrderFailed | None:
    done = await order_states.move(
        tx, event.order_id, "FAILED", why=event.reason, change={"payment_state": "FAILED"},
        only="payment_id = ?", given=(event.payment_id,), silent=("CANCELLED",),
    )  # fmt: skip
    order = await find_order(tx, event.order_id)
    if not done or order is None:
        await tx.execute(
            "UPDATE orders SET payment_state = 'FAILED' WHERE id = ? AND payment_id = ? AND payment_state = 'PROCESSING'",
            event.order_id, event.payment_id,
        )  # fmt: skip
        return None
    return OrderFailed(order.id, order.owner, order.customer, event.payment_id, event.reason)


async def _opened(event: PaymentOpened, tx: Tx) -> None:
    change = {"payment_id": event.payment_id, "payment_state": "PROCESSING"}
    waiting = await tx.execute(
        "UPDATE orders SET payment_id = ?, payment_state = ? WHERE id = ? AND state = 'PENDING' AND payment_id IS NULL",
        event.payment_id, "PROCESSING", event.order_id,
    )  # fmt: skip
    if not waiting:
        await order_states.move(tx, event.order_id, "PENDING", why="another payment was opened", change=change)


async def _own(reads: Tx | Query, order_id: str, caller: Caller) -> StoredOrder:
    order = await find_order(reads, order_id)
    if order is None or (order.owner != caller.subject and not caller.may("operator")):
        # The same words for both: an id must not tell a stranger that it exists.
        raise RpcError(Status.NOT_FOUND, f"there is no order {order_id}")
    return order


async def _again(tx: Tx, order: StoredOrder) -> pb.Order:
    return await _in_full(tx, await find_order(tx, order.id) or order)


async def _in_full(reads: Tx | Query, order: StoredOrder) -> pb.Order:
    message = _message(order)
    if order.payment_id is not None:
        message.payment.id, message.payment.state = order.payment_id, order.payment_state or ""
    for state, at in await history_of(reads, order):
        message.history.add(state=state_number(state), at_us=at)
    return message


def _message(order: StoredOrder) -> pb.Order:
    return pb.Order(
        id=order.id,
        state=state_number(order.state),
        customer=order.customer,
        currency=order.currency,
        lines=[pb.OrderLine(product=x.product, quantity=x.quantity, amount=x.amount) for x in order.lines],
        total=order.total,
        created_at_us=order.created_us,
        owner=order.owner,
    )
