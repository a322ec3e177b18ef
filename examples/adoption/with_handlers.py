"""An application that handles events with its own SQLAlchemy session; order, retries and repeats are Millstream's."""

from millstream import Event, Service, Tx
from millstream.adoption.embedded import Millstream
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    confirmed: Mapped[bool] = mapped_column(default=False, server_default="false")


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str


shop = Service("shop")


@shop.on(OrderPlaced, name="confirm")
async def confirm(event: OrderPlaced, tx: Tx) -> None:
    order = await tx.session.get_one(Order, event.order_id)
    order.confirmed = True  # flushed and committed with the message's inbox row


def handling(engine: AsyncEngine, log: str) -> Millstream:
    """The engine is the application's own, on asyncpg or psycopg. For FastAPI: `lifespan=handling(…).lifespan`."""
    return Millstream(shop, engine=engine, transport=log)
