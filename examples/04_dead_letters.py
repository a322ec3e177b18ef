"""A dead letter holds its lane, with a reason; an operator looks, repairs and redrives it into its own place.

Run it: .venv/bin/python examples/04_dead_letters.py
On a running system the same is done with `millstream dlq list`, `show`, `redrive --edit FILE` and `drop`.
"""

import asyncio

from millstream import Event, Permanent, Retry, Service, Tx
from millstream.delivery.operations import StoreOperations
from millstream.delivery.operations_api import DeadLetterFilter
from millstream.testing.harness import Harness


class Delivered(Event, topic="deliveries", key="customer"):
    customer: str
    amount: int
    currency: str


billing = Service("billing", migrations="sql/invoices")


# `after_dead_letter="go_on"` would let ann's next delivery run before the first one is decided about.
@billing.on(Delivered, name="invoice", retry=Retry(attempts=3, first="1s"), after_dead_letter="hold")
async def invoice(event: Delivered, tx: Tx) -> None:
    if event.currency not in ("EUR", "USD"):
        raise Permanent(f"no such currency: {event.currency}")  # trying again cannot help: dead at once
    amount = f"{event.amount} {event.currency}"
    await tx.execute("INSERT INTO invoices (customer, amount) VALUES (?, ?)", event.customer, amount)


async def show(ms: Harness, when: str) -> None:
    rows = await ms.rows(billing, "SELECT customer, amount FROM invoices ORDER BY customer, id")
    print(f"{when}: " + ", ".join(f"{customer} {amount}" for customer, amount in rows))


async def main() -> None:
    async with Harness(billing) as ms:
        await ms.publish(Delivered("ann", 350, "EURO"), Delivered("ann", 20, "EUR"), Delivered("bob", 7, "USD"))
        await ms.quiet()
        await show(ms, "invoices")

        operations = StoreOperations("billing", ms.runtime.bound["billing"].store, ms.clock)
        (row,) = await operations.dead_letters(DeadLetterFilter())
        letter = await operations.dead_letter(row.id)
        assert letter is not None
        print(f"letter {row.id}: {row.type} of {row.key}, {row.attempts} attempt, holds its lane: {row.holds_lane}")
        print(f"  {letter.error.partition(' at ')[0]}; {letter.behind} message(s) wait behind it")

        which = DeadLetterFilter(ids=(row.id,))
        print(f"dry run: would move {(await operations.redrive(which, dry_run=True)).ids}")
        await operations.redrive(which, edit=b'{"customer": "ann", "amount": 350, "currency": "EUR"}')
        await ms.quiet()
        await show(ms, "repaired")
        print(f"letters left: {len(await operations.dead_letters(DeadLetterFilter()))}")


if __name__ == "__main__":
    asyncio.run(main())
