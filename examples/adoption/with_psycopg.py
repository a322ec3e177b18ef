"""An application of its own on psycopg 3: the order and its event become durable together, or neither does."""

from millstream import Event
from millstream.adoption import Outbox
from psycopg import AsyncConnection


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str


outbox = Outbox("shop")  # one for the application: it opens nothing


async def place(connection: AsyncConnection, order_id: str) -> None:
    async with outbox.transaction(connection) as tx:  # a sync connection: `with`
        await connection.execute("INSERT INTO orders (id) VALUES (%s)", [order_id])
        tx.publish(OrderPlaced(order_id))
