"""A state machine: what late or repeated events may do to an entity, and a record of what they may not.

Run it: .venv/bin/python examples/07_state_machine.py
"""

import asyncio

from millstream import Event, Service, Tx
from millstream.service.state_machine import StateMachine
from millstream.testing.harness import Harness


class OrderPlaced(Event, topic="orders", key="order"):
    order: str


class PaymentFailed(Event, topic="payments", key="order"):
    order: str


class PaymentSucceeded(Event, topic="payments", key="order"):
    order: str


class OrderConfirmed(Event, topic="orders", key="order"):
    order: str


orders = Service("orders", migrations="sql/orders")
states = StateMachine(
    "orders",  # the table: its rows have the columns `id` and `state`
    start="PENDING",
    moves={"PENDING": ("CONFIRMED", "FAILED"), "FAILED": ("CONFIRMED",)},  # CONFIRMED is final
    history="order_history",
    refusals="refusals",
)


@orders.on(OrderPlaced, name="open-order")
async def open_order(event: OrderPlaced, tx: Tx) -> None:
    await tx.execute("INSERT INTO orders VALUES (?, ?)", event.order, states.start)


@orders.on(PaymentFailed, PaymentSucceeded, name="follow-payment")
async def follow(event: PaymentFailed | PaymentSucceeded, tx: Tx) -> OrderConfirmed | None:
    if isinstance(event, PaymentFailed):
        await states.move(tx, event.order, "FAILED", why="payment failed")
        return None
    # One compare-and-set in SQL: whoever runs beside it, an order is confirmed once.
    if await states.move(tx, event.order, "CONFIRMED", why="payment succeeded"):
        return OrderConfirmed(event.order)
    return None


async def main() -> None:
    async with Harness(orders) as ms:
        await ms.publish(OrderPlaced("o1"))
        await ms.quiet()
        # The second attempt succeeds; then its event comes again, and the failure of the first one comes late.
        await ms.publish(PaymentFailed("o1"), PaymentSucceeded("o1"), PaymentSucceeded("o1"), PaymentFailed("o1"))
        await ms.quiet()
        print("state:    ", (await ms.rows(orders, "SELECT state FROM orders WHERE id = 'o1'"))[0][0])
        for state, why in await ms.rows(orders, "SELECT state, why FROM order_history ORDER BY rowid"):
            print(f"moved:     to {state}, because {why}")
        for was, wanted, why in await ms.rows(orders, "SELECT was, wanted, why FROM refusals ORDER BY rowid"):
            print(f"refused:   {was} to {wanted}, because {why}")
        print(f"published: {len(ms.published(OrderConfirmed))} OrderConfirmed")


if __name__ == "__main__":
    asyncio.run(main())
