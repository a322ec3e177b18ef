"""What the notifications service tells itself, where a mail server is configured."""

from __future__ import annotations

from millstream import Event

__all__ = ["LetterSent", "LetterWritten"]


class LetterWritten(Event, topic="notifications.letters", key="order_id", version=1):
    """A letter waits to be sent."""

    order_id: str
    kind: str
    about: str
    customer: str
    subject: str
    text: str


class LetterSent(Event, topic="notifications.sent", key="order_id", version=1):
    """The mail server has taken a letter."""

    order_id: str
    kind: str
    about: str
