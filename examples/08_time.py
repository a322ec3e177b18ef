"""Delayed messages and schedules: time as data in the store, so that both survive a crash.

Run it: .venv/bin/python examples/08_time.py
"""

import asyncio

from millstream import Event, Service, Tx
from millstream.testing.harness import Harness


class BasketFilled(Event, topic="baskets", key="customer"):
    customer: str
    items: int


class BasketPaid(Event, topic="baskets", key="customer"):
    customer: str


class ReminderDue(Event, topic="reminders", key="customer"):
    customer: str


class CustomerReminded(Event, topic="reminded", key="customer"):
    customer: str


class ShiftClosed(Event, topic="shifts"):
    open_baskets: int


baskets = Service("baskets", migrations="sql/reminders")
baskets.emits(ReminderDue)


@baskets.on(BasketFilled, name="fill")
async def fill(event: BasketFilled, tx: Tx) -> None:
    await tx.execute("INSERT INTO baskets (customer, items) VALUES (?, ?)", event.customer, event.items)
    tx.publish(ReminderDue(event.customer), delay="10m")  # leaves ten minutes after this commit


@baskets.on(BasketPaid, name="pay")
async def pay(event: BasketPaid, tx: Tx) -> None:
    await tx.execute("UPDATE baskets SET paid = 1 WHERE customer = ?", event.customer)


@baskets.on(ReminderDue, name="remind")
async def remind(event: ReminderDue, tx: Tx) -> CustomerReminded | None:
    # A delayed message is not taken back; whether it still matters is decided when it arrives.
    waits = await tx.fetch_one("SELECT 1 FROM baskets WHERE customer = ? AND paid = 0", event.customer)
    return CustomerReminded(event.customer) if waits else None


@baskets.every("30m", name="close-shift")  # the first time at once, then once a tick however many processes there are
async def close_shift(tx: Tx) -> ShiftClosed:
    ((count,),) = await tx.fetch("SELECT COUNT(*) FROM baskets WHERE paid = 0")
    return ShiftClosed(count)


async def main() -> None:
    async with Harness(baskets) as ms:
        await ms.publish(BasketFilled("ann", 3), BasketFilled("bob", 1))
        await ms.quiet()
        await ms.publish(BasketPaid("ann"))
        await ms.quiet()
        print("at once:          ", ms.published(CustomerReminded))
        await ms.advance("10m")
        print("ten minutes later:", ms.published(CustomerReminded))
        await ms.advance("20m")
        await ms.publish(BasketPaid("bob"))
        await ms.quiet()
        print("closed shifts:    ", ms.published(ShiftClosed))


if __name__ == "__main__":
    asyncio.run(main())
