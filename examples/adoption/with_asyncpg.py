"""An application of its own on asyncpg: the order and its event become durable together, or neither does."""

import asyncpg
from millstream import Event
from millstream.adoption import Outbox


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str


outbox = Outbox("shop")  # one for the application: it opens nothing


async def place(pool: asyncpg.Pool, order_id: str) -> None:
    async with pool.acquire() as connection, outbox.transaction(connection) as tx:
        await connection.execute("INSERT INTO orders (id) VALUES ($1)", order_id)
        tx.publish(OrderPlaced(order_id))
