"""What pyright must accept, and what it must refuse: every ignore here is an error that has to be there."""

from __future__ import annotations

from millstream import Call, Event, Service, Tx


class Placed(Event, topic="orders", key="order"):
    order: str
    total: int


class Paid(Event, topic="orders", key="order"):
    order: str


shop = Service("shop")


@shop.on(Placed, name="one")
async def takes_the_event(event: Placed, tx: Tx) -> Paid:
    return Paid(event.order)


@shop.on(Placed, Paid, name="either")
async def takes_either(event: Placed | Paid, tx: Tx) -> None: ...


@shop.on(Placed, name="many")
async def takes_a_batch(events: list[Placed], tx: Tx) -> list[Paid]:
    return [Paid(event.order) for event in events]


@shop.effect(Paid, name="mail")
async def calls_outside(event: Paid, call: Call) -> None: ...


@shop.on(Placed, name="wrong-event")  # pyright: ignore[reportArgumentType, reportCallIssue] - it takes another event
async def takes_another(event: Paid, tx: Tx) -> None: ...


@shop.on(Placed, Paid, name="half")  # pyright: ignore[reportArgumentType, reportCallIssue] - it takes one of the two
async def takes_half(event: Placed, tx: Tx) -> None: ...


@shop.on(Placed, name="not-async")  # pyright: ignore[reportArgumentType, reportCallIssue] - it is no coroutine function
def is_not_async(event: Placed, tx: Tx) -> None: ...


@shop.effect(Paid, name="batch")  # pyright: ignore[reportArgumentType] - an effect takes one event at a time
async def calls_with_a_list(events: list[Paid], call: Call) -> None: ...


Placed("o1", "12")  # pyright: ignore[reportArgumentType] - a total is an int
Placed(order="o1")  # pyright: ignore[reportCallIssue] - a total is required


async def stays_an_ordinary_function(tx: Tx) -> str:
    paid = await takes_the_event(Placed("o1", 12), tx)
    return paid.order
