"""Orders that an older system puts into a queue of its own, on RabbitMQ, Kafka or NATS: docs/guide/intakes.md.

Run it: .venv/bin/millstream up examples.intakes.legacy:shop --config FILE, with `[intakes]` in FILE
"""

from millstream import Event, Service, Tx


class LegacyOrder(Event, topic="legacy-orders", key="number"):
    """What the older system writes, as far as we read it: {"number": "A-17", "total": 1250}."""

    number: str
    total: int


shop = Service("shop", migrations="sql")
shop.take_in(LegacyOrder, name="legacy-orders")  # from which queue is configuration


@shop.on(LegacyOrder, name="keep-order", after_dead_letter="go_on")
async def keep(event: LegacyOrder, tx: Tx) -> None:
    await tx.execute(
        "INSERT INTO orders VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET total = excluded.total",
        event.number,
        event.total,
    )
