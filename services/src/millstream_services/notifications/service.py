"""The notifications service at a glance."""

from __future__ import annotations

from collections.abc import AsyncIterator

from millstream import Retry, Service
from millstream.service.context import ServiceContext

from ..contracts.notifications import Notifications
from ..contracts.order_events import OrderAdvanced, OrderCancelled, OrderConfirmed, OrderFailed
from ..contracts.payment_events import PaymentRefunded
from . import handlers
from .events import LetterSent, LetterWritten
from .mailer import Mailer, SmtpMailer, Unsent

__all__ = ["notifications"]

notifications = Service("notifications", migrations="sql")

# A mail server may be away for an hour; a letter that it refuses for good must not hold the next one of its order.
MAIL_RETRY = Retry(attempts=12, first="1s", cap="15m")

notifications.on(OrderConfirmed, OrderFailed, OrderCancelled, OrderAdvanced, name="tell-about-order")(
    handlers.tell_about_order
)
notifications.on(PaymentRefunded, name="tell-about-refund")(handlers.tell_about_refund)

# Only where a mail server is configured is there a letter to send.
notifications.effect(
    LetterWritten, name="send-letter", retry=MAIL_RETRY, after_dead_letter="go_on", timeout="12s", concurrency=32
)(handlers.send_letter)
notifications.on(LetterSent, name="note-sent")(handlers.note_sent)

notifications.rpc(Notifications.list_notifications)(handlers.list_notifications)


@notifications.resource(Mailer)
async def mailer(context: ServiceContext) -> AsyncIterator[Mailer]:
    """`smtp`: the server's address; none: letters are only recorded. `sender`, `domain`: see `SmtpMailer`."""
    url = str(context.settings.get("smtp", ""))
    if not url:
        yield Unsent()
        return
    sender = str(context.settings.get("sender", "shop@example.com"))
    smtp = SmtpMailer(url, sender, str(context.settings.get("domain", "example.com")))
    try:
        yield smtp
    finally:
        await smtp.aclose()
