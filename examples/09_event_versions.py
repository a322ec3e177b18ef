"""Events over time: a new version reads the old ones; dataclasses and pydantic models are events as well.

Run it: .venv/bin/python examples/09_event_versions.py
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import pydantic
from millstream import Event, Service, Tx, event
from millstream.testing.harness import Harness


def split_price(old: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had a price as text, "3.50 USD"; version 2 has minor units and a currency."""
    amount, currency = old.pop("price").split()
    return {**old, "minor": round(float(amount) * 100), "currency": currency}


def add_country(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "country": "US"}


# Version n is read through the upgrades n → n + 1 → … → 3. Handlers know the newest version only.
class PriceSet(Event, topic="prices", key="product", version=3, upgrade={1: split_price, 2: add_country}):
    product: str
    minor: int
    currency: str
    country: str


@event(topic="reviews", key="product")
@dataclass(frozen=True)
class Reviewed:
    product: str
    stars: int


@event(topic="discounts", key="product")
class DiscountGiven(pydantic.BaseModel, frozen=True):
    product: str
    percent: int = pydantic.Field(ge=1, le=90)


shop = Service("shop", migrations="sql/notes")


@shop.on(PriceSet, name="note-price")
async def note_price(event: PriceSet, tx: Tx) -> None:
    price = f"{event.minor} {event.currency} in {event.country}"
    await tx.execute("INSERT INTO notes (product, note) VALUES (?, ?)", event.product, price)


@shop.on(Reviewed, name="discount-what-nobody-likes")
async def discount(event: Reviewed) -> DiscountGiven | None:
    return DiscountGiven(product=event.product, percent=30) if event.stars == 1 else None


async def main() -> None:
    async with Harness(shop) as ms:
        envelope = b'{"specversion":"1.0","id":"%d","source":"/old","type":"PriceSet","subject":"tea","dataversion":%d,"data":%s}'
        await ms.publish_raw("prices", envelope % (1, 1, b'{"product":"tea","price":"3.50 USD"}'), "tea")
        await ms.publish_raw("prices", envelope % (2, 2, b'{"product":"tea","minor":360,"currency":"USD"}'), "tea")
        await ms.publish(PriceSet("tea", 370, "EUR", "FR"))
        # A version that this program does not know yet: it waits for a worker that does, and is no dead letter.
        await ms.publish_raw("prices", envelope % (4, 4, b'{"product":"tea","what":"a later program knows"}'), "tea")
        await ms.publish(Reviewed("tea", 5), Reviewed("mud", 1))
        await ms.quiet()
        for (note,) in await ms.rows(shop, "SELECT note FROM notes ORDER BY id"):
            print(note)
        print(f"dead letters: {len(await ms.dead_letters(shop))}")
        print(ms.published(DiscountGiven))


if __name__ == "__main__":
    asyncio.run(main())
