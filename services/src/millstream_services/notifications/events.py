"""What the notifications service tells itself."""

from __future__ import annotations

from millstream import Event

__all__ = ["MailSent"]


class MailSent(Event, topic="notifications", key="order_id", version=1):
    """A mail server has taken a letter, or there is none and the letter is only recorded."""

    order_id: str
    owner: str
    kind: str
    about: str
