"""Facts become letters, sent letters become rows."""

from __future__ import annotations

from millstream import Call, Caller, Query, Tx
from millstream.contracts import RpcError, Status

from ..contracts.notifications import pb
from ..contracts.order_events import OrderAdvanced, OrderCancelled, OrderConfirmed, OrderFailed
from ..contracts.payment_events import PaymentRefunded
from .domain import Fact, letter_about
from .events import MailSent
from .mailer import Mailer, message_id
from .store import insert_notification, notifications_of

__all__ = ["list_notifications", "record", "tell_about_order", "tell_about_payment"]

ID_DOMAIN = "millstream.invalid"


async def tell_about_order(
    event: OrderConfirmed | OrderFailed | OrderCancelled | OrderAdvanced, call: Call, mailer: Mailer
) -> MailSent | None:
    """Send what an order's fact makes."""
    return await _tell(event, call, mailer)


async def tell_about_payment(event: PaymentRefunded, call: Call, mailer: Mailer) -> MailSent | None:
    """Send what a payment's fact makes."""
    return await _tell(event, call, mailer)


async def record(event: MailSent, tx: Tx) -> None:
    """Keep what was told. The table takes each fact once, should a mail have gone out twice."""
    await insert_notification(tx, event.order_id, event.kind, event.about, event.owner)


async def list_notifications(
    request: pb.ListNotificationsRequest, caller: Caller, query: Query
) -> pb.ListNotificationsResponse:
    """An order's notifications."""
    rows = await notifications_of(query, request.order_id)
    if any(owner != caller.subject for _, owner, _ in rows) and not caller.may("operator"):
        raise RpcError(Status.NOT_FOUND, f"there is no order {request.order_id}")
    return pb.ListNotificationsResponse(
        notifications=[pb.Notification(order_id=request.order_id, kind=kind, at_us=at) for kind, _, at in rows]
    )


async def _tell(fact: Fact, call: Call, mailer: Mailer) -> MailSent | None:
    letter = letter_about(fact)
    if letter is None:
        return None
    await mailer.send(letter, message_id(call.idempotency_key, ID_DOMAIN))
    return MailSent(fact.order_id, fact.owner, letter.kind, letter.about)
