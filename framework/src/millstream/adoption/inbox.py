"""Which messages a subscription has accepted, kept in the transaction of their work: what makes repeats harmless.

```python
async with sessions.begin() as session:
    if await inbox.accept(message, subscription="send-invoice", connection=session):
        session.add(Invoice(order_id=event.order_id))
```

Logs and relays repeat messages, never lose them. The row that says "accepted" commits with the work, so a message counts
once: of two transactions with the same message at once, one waits for the other and then learns that it is a repeat.

The inbox can forget only what cannot come back as new (rule C8): what `millstream relay` purges lies behind a bound, and
a message older than the bound which the inbox does not know is refused, since nobody can tell any more whether it ran.
"""

from __future__ import annotations

from collections.abc import Coroutine
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, final, overload

from ..clock import Clock, SystemClock
from ..errors import Misconfigured, Permanent
from ..message import Message, decode_message, parse_time
from .recognition import library_of
from .statements import Place

if TYPE_CHECKING:
    from asyncpg import Connection as AsyncpgConnection  # pyright: ignore[reportMissingTypeStubs] - it ships none
    from asyncpg.pool import PoolConnectionProxy  # pyright: ignore[reportMissingTypeStubs] - as above
    from psycopg import AsyncConnection as AsyncPsycopgConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

__all__ = ["BOUND_ID", "Inbox", "OlderThanInbox", "subscription_number"]

BOUND_ID = ""
"""The row of a source that says how far the inbox has forgotten; no message has an empty id."""

_PERCENT = ("%s", "%s", "%s", "%s")
_NUMBERED = ("$1", "$2", "$3", "$4")


class OlderThanInbox(Permanent):
    """A message so old that the inbox has forgotten its time: whether it ran before, nobody can tell."""

    def __init__(self, message: Message, subscription: str) -> None:
        super().__init__(
            f"message {message.id} of {message.source} ({message.time}) is older than what the inbox of {subscription} "
            "remembers. Look whether its work was done; then drop it, or publish it again as a new message"
        )
        self.message = message
        self.subscription = subscription


@final
class Inbox:
    """The inbox of one database. Make one and keep it: it opens nothing. schema: as for `Outbox`."""

    def __init__(self, *, schema: str | None = None, clock: Clock | None = None) -> None:
        self._place = Place(schema)
        self._clock = clock or SystemClock()

    @overload
    def accept(  # pyright: ignore[reportOverlappingOverload] - with every other connection it is not awaited
        self,
        message: Message | bytes,
        *,
        subscription: str,
        connection: AsyncpgConnection
        | PoolConnectionProxy
        | AsyncPsycopgConnection[Any]
        | AsyncConnection
        | AsyncSession
        | async_scoped_session[Any],
    ) -> Coroutine[Any, Any, bool]: ...

    @overload
    def accept(self, message: Message | bytes, *, subscription: str, connection: object) -> bool: ...

    def accept(
        self, message: Message | bytes, *, subscription: str, connection: object
    ) -> bool | Coroutine[Any, Any, bool]:
        """Whether this message is new to this subscription; False for a repeat. Awaited with async connections.

        Call it first in the transaction that does the message's work, and do nothing for a repeat. Acknowledge to the
        log or queue after the commit. `message`: what `decode_message` gives, or the CloudEvent's JSON itself.

        Raises:
            OlderThanInbox: it is older than what the inbox remembers, and not in it.
            Undecodable: the bytes are no CloudEvent. Misconfigured: there is no transaction, or `connection` is none.
        """
        if isinstance(message, bytes):
            message = decode_message(message)
        if not subscription:
            raise Misconfigured('inbox.accept: name the subscription, for instance subscription="send-invoice"')
        time_us = parse_time(message.time) if message.time else self._clock.now_us()
        params = (subscription_number(subscription), message.source, message.id, time_us)
        match library_of(connection):
            case "sqlalchemy":
                from .callers import sqlalchemy

                return _judge(message, subscription, time_us, *sqlalchemy.accept(self._place, connection, params))
            case "sqlalchemy async":
                from .callers import sqlalchemy

                waiting = sqlalchemy.accept_async(self._place, connection, params)
                return _judge_later(message, subscription, time_us, waiting)
            case "django":
                from .callers import django

                sql = _statements(self._place, _PERCENT)
                return _judge(message, subscription, time_us, *django.accept(connection, *sql, params))
            case "psycopg":
                from .callers import psycopg

                sql = _statements(self._place, _PERCENT)
                return _judge(message, subscription, time_us, *psycopg.accept(connection, *sql, params))
            case "psycopg async":
                from .callers import psycopg

                sql = _statements(self._place, _PERCENT)
                waiting = psycopg.accept_async(connection, *sql, params)
                return _judge_later(message, subscription, time_us, waiting)
            case "asyncpg":
                from .callers import asyncpg

                sql = _statements(self._place, _NUMBERED)
                waiting = asyncpg.accept(connection, *sql, params)
                return _judge_later(message, subscription, time_us, waiting)


def subscription_number(name: str) -> int:
    """The number of a subscription by its name: negative, while those of a service's own subscriptions are positive."""
    return -1 - int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") // 2


def _statements(place: Place, marks: tuple[str, str, str, str]) -> tuple[str, str]:
    """The insert, and the look at the bound.

    The look is a later statement: if the purge took away the row that would have made this message a repeat, its bound
    was committed before that, so it is seen.
    """
    number, source, id_, time_us = marks
    insert = (
        f"INSERT INTO {place.table('millstream_inbox')} (subscription, source, id, partition, time) "  # noqa: S608 - ours
        f"VALUES ({number}, {source}, {id_}, 0, {time_us}) ON CONFLICT DO NOTHING RETURNING 1"
    )
    bound = (
        f"SELECT time FROM {place.table('millstream_inbox')} "  # noqa: S608 - ours
        f"WHERE subscription = {number} AND source = {source} AND id = '{BOUND_ID}'"
    )
    return insert, bound


def _judge(message: Message, subscription: str, time_us: int, is_new: bool, bound_us: int) -> bool:
    if is_new and time_us < bound_us:
        raise OlderThanInbox(message, subscription)
    return is_new


async def _judge_later(
    message: Message, subscription: str, time_us: int, waiting: Coroutine[Any, Any, tuple[bool, int]]
) -> bool:
    return _judge(message, subscription, time_us, *await waiting)
