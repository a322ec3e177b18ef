"""Facts become letters, letters are sent, and what was told can be read.

A fact is written down once, in the transaction of its message. Where a mail server is configured the letter then takes
its own way to it; where there is none, writing it down is all there is to do.
"""

from __future__ import annotations

from millstream import Call, Caller, Query, Tx
from millstream.contracts import RpcError, Status

from ..contracts.notifications import pb
from ..contracts.order_events import OrderAdvanced, OrderCancelled, OrderConfirmed, OrderFailed
from ..contracts.payment_events import PaymentRefunded
from .domain import Fact, Letter, letter_about
from .events import LetterSent, LetterWritten
from .mailer import Mailer, message_id
from .store import insert_notification, mark_told, notifications_of

__all__ = ["list_notifications", "note_sent", "send_letter", "tell_about_order", "tell_about_refund"]

ID_DOMAIN = "millstream.invalid"


async def tell_about_order(
    event: OrderConfirmed | OrderFailed | OrderCancelled | OrderAdvanced, tx: Tx, mailer: Mailer
) -> LetterWritten | None:
    """Write the letter that an order's fact makes."""
    return await _write(event, tx, mailer)


async def tell_about_refund(event: PaymentRefunded, tx: Tx, mailer: Mailer) -> LetterWritten | None:
    """Write the letter that a refund makes."""
    return await _write(event, tx, mailer)


async def send_letter(event: LetterWritten, call: Call, mailer: Mailer) -> LetterSent:
    """Hand a letter to the mail server, under one Message-ID however often it is tried."""
    letter = Letter(event.kind, event.about, event.customer, event.subject, event.text)
    await mailer.send(letter, message_id(call.idempotency_key, ID_DOMAIN))
    return LetterSent(event.order_id, event.kind, event.about)


async def note_sent(event: LetterSent, tx: Tx) -> None:
    """Keep when a letter left."""
    await mark_told(tx, event.order_id, event.kind, event.about)


async def list_notifications(
    request: pb.ListNotificationsRequest, caller: Caller, query: Query
) -> pb.ListNotificationsResponse:
    """What an order's customer was told."""
    rows = await notifications_of(query, request.order_id)
    if any(owner != caller.subject for _, owner, _ in rows) and not caller.may("operator"):
        raise RpcError(Status.NOT_FOUND, f"there is no order {request.order_id}")
    told = [(kind, at) for kind, _, at in rows if at is not None]
    return pb.ListNotificationsResponse(
        notifications=[pb.Notification(order_id=request.order_id, kind=kind, at_us=at) for kind, at in told]
    )


async def _write(fact: Fact, tx: Tx, mailer: Mailer) -> LetterWritten | None:
    letter = letter_about(fact)
    if letter is None:
        return None
    fresh = await insert_notification(tx, fact.order_id, letter.kind, letter.about, fact.owner, told=not mailer.sends)
    if not (fresh and mailer.sends):
        return None
    return LetterWritten(fact.order_id, letter.kind, letter.about, letter.customer, letter.subject, letter.text)
