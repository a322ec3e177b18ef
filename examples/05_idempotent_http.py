"""An HTTP route with an Idempotency-Key: a repeat gets the first reply, byte for byte, and does nothing again.

Run it: .venv/bin/python examples/05_idempotent_http.py
"""

import asyncio

import msgspec
from millstream import Caller, Event, Query, Service, Tx
from millstream.http import Created, Problem
from millstream.testing.harness import Answer, Harness


class NewTicket(msgspec.Struct, frozen=True):
    """The body of a request. dataclasses and pydantic models are bodies as well."""

    seat: str


class Ticket(msgspec.Struct, frozen=True):
    seat: str
    holder: str


class TicketSold(Event, topic="tickets", key="seat"):
    seat: str
    holder: str


tickets = Service("tickets", migrations="sql/tickets")
tickets.emits(TicketSold)  # what routes publish cannot be seen from their types


@tickets.post("/tickets", idempotent=True)
async def sell(body: NewTicket, caller: Caller, tx: Tx) -> Created[Ticket]:
    if await tx.fetch_one("SELECT 1 FROM tickets WHERE seat = ?", body.seat):
        raise Problem(409, f"seat {body.seat} is taken", problem="seat-taken")
    await tx.execute("INSERT INTO tickets VALUES (?, ?)", body.seat, caller.subject)
    tx.publish(TicketSold(body.seat, caller.subject))
    # Row, event and the reply under its key: one transaction.
    return Created(Ticket(body.seat, caller.subject), location=f"/tickets/{body.seat}")


@tickets.get("/tickets/{seat}")
async def read(seat: str, query: Query) -> Ticket:
    row = await query.fetch_one("SELECT seat, holder FROM tickets WHERE seat = ?", seat)
    if row is None:
        raise Problem(404, f"nobody holds seat {seat}")
    return Ticket(*row)


def show(what: str, answer: Answer) -> None:
    body = answer.json()
    print(f"{what:<22} {answer.status}  {body.get('detail', body)}")


async def main() -> None:
    async with Harness(tickets, subject="ann") as ms:
        first = await ms.call("POST", "/tickets", {"seat": "A1"}, key="k1")
        again = await ms.call("POST", "/tickets", {"seat": "A1"}, key="k1")
        show("first request", first)
        show("the same once more", again)
        print(f"{'':<22} same bytes: {first.body == again.body}, replayed: {again.headers['idempotent-replayed']}")
        show("same key, other body", await ms.call("POST", "/tickets", {"seat": "A2"}, key="k1"))
        show("no key", await ms.call("POST", "/tickets", {"seat": "A2"}))
        show("another caller's k1", await ms.call("POST", "/tickets", {"seat": "A1"}, key="k1", subject="bob"))
        show("read", await ms.call("GET", "/tickets/A1"))
        await ms.quiet()
        print(f"events: {ms.published(TicketSold)}")


if __name__ == "__main__":
    asyncio.run(main())
