"""A first handler: an event comes in; a row and a new event go out, in one transaction.

Run it: .venv/bin/python examples/01_first_handler.py
Its table stands in sql/guestbook/. The same declaration runs as a server, with its data in var/guestbook, by
.venv/bin/millstream up examples.01_first_handler:guestbook --data var/guestbook
"""

import asyncio

from millstream import Event, Service, Tx
from millstream.testing.harness import Harness


class Visited(Event, topic="visits", key="visitor"):
    """A fact. All facts with one key are handled in the order in which they were published."""

    visitor: str


class BecameRegular(Event, topic="regulars", key="visitor"):
    visitor: str


guestbook = Service("guestbook", migrations="sql/guestbook")  # declares; opens nothing, starts nothing


@guestbook.on(Visited, name="count-visits")
async def count(event: Visited, tx: Tx) -> BecameRegular | None:
    ((visits,),) = await tx.fetch(
        "INSERT INTO visitors VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET visits = visits + 1 RETURNING visits",
        event.visitor,
    )
    # What a handler returns is published in its own transaction: with the row, or not at all.
    return BecameRegular(event.visitor) if visits == 3 else None


async def main() -> None:
    # The harness runs the real kernel on SQLite in a temporary folder.
    async with Harness(guestbook) as ms:
        await ms.publish(Visited("ann"), Visited("bob"), Visited("ann"), Visited("ann"), Visited("ann"))
        await ms.quiet()  # returns when nothing is in flight any more
        for name, visits in await ms.rows(guestbook, "SELECT name, visits FROM visitors ORDER BY name"):
            print(f"{name} came {visits} time(s)")
        print(f"published: {ms.published(BecameRegular)}")


if __name__ == "__main__":
    asyncio.run(main())
