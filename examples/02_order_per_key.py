"""Order per key, also while one message fails: the failing key waits, all others go on.

Run it: .venv/bin/python examples/02_order_per_key.py
"""

import asyncio

from millstream import Event, Retry, Service, Transient, Tx
from millstream.testing.harness import Harness


class Deposited(Event, topic="deposits", key="account"):
    account: str
    amount: int


bank = Service("bank", migrations="sql/bank")
under_review = {"bob"}  # stands in for whatever is wrong with one account and not with the others


# Ten seconds to the second try, twenty to the third. Without jitter, so that this program's output is always the same.
@bank.on(Deposited, name="book", retry=Retry(attempts=5, first="10s", jitter=False))
async def book(event: Deposited, tx: Tx) -> None:
    await tx.execute("INSERT INTO bookings (account, amount) VALUES (?, ?)", event.account, event.amount)
    if event.account in under_review:
        raise Transient("the account is under review")  # the row above is undone, the message is tried again


async def show(ms: Harness, when: str) -> None:
    rows = await ms.rows(bank, "SELECT account, amount FROM bookings ORDER BY account, id")
    print(f"{when}: " + ", ".join(f"{account} {amount:+}" for account, amount in rows))


async def main() -> None:
    async with Harness(bank) as ms:  # its clock stands still until `advance`
        await ms.publish(Deposited("ann", 1), Deposited("bob", 10), Deposited("cleo", 100))
        await ms.publish(Deposited("ann", 2), Deposited("bob", 20), Deposited("bob", 30))
        await ms.quiet()
        await show(ms, "bob's first deposit fails")
        await ms.advance("10s")
        await show(ms, "tried again after 10 s   ")
        under_review.clear()
        await ms.advance("20s")
        await show(ms, "after 20 s more          ")


if __name__ == "__main__":
    asyncio.run(main())
