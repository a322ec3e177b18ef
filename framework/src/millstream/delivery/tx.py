"""The unit of work that user code holds: SQL on the service's own store, and events that leave with its commit.

`publish` only buffers. The kernel calls `Outbox.flush` after the last business statement: that makes the order of
outbox rows the order of commits for a key (rule T4).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..caller import Caller
from ..clock import Duration, seconds
from ..errors import Misconfigured, Mismatch
from ..message import Message
from ..ports.store import Expected, Lending, Param, Row, Session
from .outbox import Outbox

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: TID251 - a type, for those who use it

__all__ = ["Call", "Query", "Tx", "publish_returned"]


class Query:
    """Reads of committed rows, outside of any transaction. Routes that only read take it instead of a `Tx`."""

    __slots__ = ("_fetch",)

    def __init__(self, fetch: Any) -> None:
        self._fetch = fetch

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        """All rows."""
        return await self._fetch(sql, *params)

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        """The first row, or None."""
        rows = await self._fetch(sql, *params)
        return rows[0] if rows else None


class Tx:
    """One transaction of a handler, a route or a contract's method.

    All or nothing: what `execute` changed, what `publish` announced, the inbox row of the message and the stored reply
    of the request become durable together when the handler returns, and nothing does when it raises. Nothing else may
    be awaited inside (rule T3); calls to the outside belong to effects. A handler may run more than once for a
    message, its changes apply once: keep state in the database, not in variables.
    """

    __slots__ = ("_cause", "_outbox", "_session", "now_us")

    def __init__(self, session: Session, outbox: Outbox, now_us: int, cause: Message | Caller | None = None) -> None:
        self._session = session
        self._outbox = outbox
        self._cause = cause
        self.now_us = now_us
        """Wall-clock microseconds, the same for the whole transaction."""

    # Not `async`: a coroutine around the session's own would cost a handler of one statement a tenth of its time.

    def execute(self, sql: str, *params: Param) -> Coroutine[Any, Any, int]:
        """Run a statement; return how many rows it changed. `?` marks a parameter."""
        return self._session.execute(sql, *params)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> Coroutine[Any, Any, None]:
        """Run one statement for each row of parameters."""
        return self._session.execute_many(sql, rows)

    def fetch(self, sql: str, *params: Param) -> Coroutine[Any, Any, list[Row]]:
        """All rows of a query."""
        return self._session.fetch(sql, *params)

    def fetch_one(self, sql: str, *params: Param) -> Coroutine[Any, Any, Row | None]:
        """The first row, or None."""
        return self._session.fetch_one(sql, *params)

    def expect(
        self, sql: str, *params: Param, rows: int = 1, otherwise: Exception | type[Exception] | None = None
    ) -> None:
        """A compare-and-set: run `sql`, and raise `otherwise` (default `Mismatch`) unless it changed `rows` rows.

        Checked at the latest when the handler returns; it needs no await because nobody reads its result (rule T5).
        """

        def error(changed: int) -> Exception | type[Exception]:
            return otherwise or Mismatch(f"expected {rows} row(s) to change, {changed} did: {' '.join(sql.split())}")

        self._session.queue(sql, params, Expected(rows, error))

    @property
    def session(self) -> AsyncSession:
        """SQLAlchemy's session in this transaction, on a store over the application's own engine (`SqlalchemyStore`).

        What it holds is flushed when the handler returns; commit and rollback are Millstream's.

        Raises:
            Misconfigured: the store is another one, and has SQL only.
        """
        if isinstance(self._session, Lending):
            return self._session.lend()
        raise Misconfigured("tx.session: this service's store has no sessions of SQLAlchemy; give it a SqlalchemyStore")

    def publish(self, event: object, *, delay: Duration | None = None) -> str:
        """Publish an event with this transaction's commit; return its message id.

        `delay` lets it leave that much later than the commit.

        Raises:
            Undecodable: the event cannot be encoded. RecordRefused: it is larger than the log carries. Both name it.
            Misconfigured: it is no declared event.
        """
        due = None if delay is None else self.now_us + round(seconds(delay) * 1e6)
        return self._outbox.add(event, self._cause, self.now_us, due)


class Call:
    """What an effect holds while it calls the outside world.

    idempotency_key: the same for every try of this call, for the other side to drop repeats by.
    fence: grows with every start of any call of this partition, so that the other side can refuse a late older one.
    attempt: 1 for the first try. deadline_us: wall-clock microseconds after which the outcome counts as unknown.
    """

    __slots__ = ("attempt", "correlation_id", "deadline_us", "fence", "idempotency_key", "message", "traceparent")

    def __init__(self, message: Message, fence: int, attempt: int, deadline_us: int, idempotency_key: str) -> None:
        self.message = message
        self.fence = fence
        self.attempt = attempt
        self.deadline_us = deadline_us
        self.idempotency_key = idempotency_key
        self.traceparent = message.traceparent
        self.correlation_id = message.correlationid or message.id


def publish_returned(tx: Tx, returned: Any) -> None:
    """Publish what a handler returned: nothing, one event, or several."""
    if returned is None:
        return
    if hasattr(cast(object, type(returned)), "__millstream_event__") or not isinstance(returned, Iterable):
        tx.publish(cast(object, returned))
    else:
        for event in cast(Iterable[object], returned):
            tx.publish(event)
