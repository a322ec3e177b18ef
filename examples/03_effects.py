"""An effect calls the outside world: at least once, with an idempotency key and a fence for the other side.

Run it: .venv/bin/python examples/03_effects.py
"""

import asyncio
from collections.abc import AsyncIterator

from millstream import Call, Event, Retry, Service
from millstream.testing.harness import Harness


class Packed(Event, topic="parcels", key="parcel"):
    parcel: str
    address: str


class LabelPrinted(Event, topic="labels", key="parcel"):
    parcel: str
    label: str


class Carrier:
    """Stands in for another company's API. It keeps keys and fences, as a good one does."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.labels: dict[str, str] = {}
        self.newest_fence: dict[str, int] = {}

    async def print_label(self, parcel: str, address: str, key: str, fence: int) -> str:
        self.calls.append(f"{parcel} to {address}")
        if fence < self.newest_fence.get(parcel, 0):
            raise PermissionError("a call that is older than what this parcel has seen")
        self.newest_fence[parcel] = fence
        first_time = key not in self.labels
        label = self.labels.setdefault(key, f"L{len(self.labels) + 1}")
        if first_time and len(self.calls) == 1:
            raise ConnectionError("the label was printed, the answer was lost")
        return label


carrier = Carrier()
shop = Service("shop")


@shop.resource(Carrier)  # handlers ask for it by type
async def open_carrier() -> AsyncIterator[Carrier]:
    yield carrier


@shop.effect(Packed, name="print-label", retry=Retry(first="1s", jitter=False), timeout="5s", concurrency=8)
async def print_label(event: Packed, call: Call, carrier: Carrier) -> LabelPrinted:
    label = await carrier.print_label(event.parcel, event.address, call.idempotency_key, call.fence)
    return LabelPrinted(event.parcel, label)  # published in the transaction that records the outcome


async def main() -> None:
    async with Harness(shop) as ms:
        await ms.publish(Packed("p1", "Old Lane"))
        await ms.quiet()
        await ms.advance("1s")  # the second try has the same key: the carrier knows the label
        await ms.publish(Packed("p1", "New Street"))  # a new message, a new key, a higher fence
        await ms.quiet()
        print(f"calls:  {carrier.calls}")
        print(f"labels: {[event.label for event in ms.published(LabelPrinted)]}")
        try:
            await carrier.print_label("p1", "Old Lane", key="whatever the late call had", fence=1)
        except PermissionError as refused:
            print(f"a late repeat of the older call is refused: {refused}")


if __name__ == "__main__":
    asyncio.run(main())
