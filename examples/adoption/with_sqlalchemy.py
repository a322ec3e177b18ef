"""An application of its own on SQLAlchemy: its session publishes, and its session handles each message once."""

from millstream import Event
from millstream.adoption import Inbox, Outbox
from millstream.message import decode_message
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    confirmed: Mapped[bool] = mapped_column(default=False, server_default="false")


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str


outbox = Outbox("shop")  # one for the application: it opens nothing


async def place(session: AsyncSession, order_id: str) -> None:
    session.add(Order(id=order_id))
    outbox.publish(OrderPlaced(order_id), connection=session)  # not awaited: its row is written at the commit
    await session.commit()


inbox = Inbox()


async def confirm(session: AsyncSession, value: bytes) -> None:
    """For each message of a log or queue; acknowledge it when this has returned."""
    message = decode_message(value)
    async with session.begin():
        if await inbox.accept(message, subscription="confirm", connection=session):  # False: it was here before
            order = await session.get_one(Order, message.subject)
            order.confirmed = True
