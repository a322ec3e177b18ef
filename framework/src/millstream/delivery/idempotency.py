"""One effect and one reply for a request that arrives several times under one key (HTTP `Idempotency-Key`).

**What it guarantees.** The record of a key lives in the transaction of the work it stands for: both become durable
together or not at all. A repeat with the same key and the same request gets the stored reply, byte for byte. Repeats
that arrive while the first is under way wait for it: in one process in memory, before they enter a transaction;
across processes the table's primary key decides, and a waiting insert is bounded by the store's own lock time-out.
When the wait runs out the repeat gets `KeyInUse` (409 with `Retry-After`). The same key with another request is
`KeyReused` (422). Keys are scoped by caller and operation: two callers may use the same key.

**Which replies are stored.** Those of 2xx and 3xx, and final refusals (4xx) that the work itself gave; a refusal
undoes the business rows and is then stored in a transaction of its own. Never stored: 401, 408, 425, 429, 5xx, a key
in use, and everything that is said before the work starts (a bad token, an unreadable body): those may come out
differently next time. Should a crash fall between a refusal and its record, the work is judged anew.

**What it leaves to the caller.** To give one fingerprint to one request, and to purge records older than the
retention: after that a key is new again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import msgspec

from ..caller import Caller
from ..clock import Clock
from ..errors import Busy, MillstreamError, Permanent, Refused
from ..ports.store import Session, Store
from .outbox import Outbox

__all__ = [
    "IDEMPOTENCY_SCHEMA",
    "Done",
    "Idempotency",
    "KeyInUse",
    "KeyMissing",
    "KeyReused",
    "Once",
    "StoredReply",
    "check_key",
    "fingerprint_of",
    "purge",
    "scope_of",
]

IDEMPOTENCY_SCHEMA = """
CREATE TABLE millstream_idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status INTEGER,               -- null only inside the transaction that does the work
    headers TEXT NOT NULL,        -- a JSON array of pairs
    body BLOB NOT NULL,
    created INTEGER NOT NULL,     -- microseconds, by the clock of the process that did the work
    PRIMARY KEY (scope, key)
);
CREATE INDEX millstream_idempotency_created ON millstream_idempotency (created);
"""

KEY_LIMIT = 255
WAIT_SECONDS = 5.0
"""How long a repeat waits for the first: longer than any transaction should take, shorter than clients wait."""

_FIND = "SELECT fingerprint, status, headers, body FROM millstream_idempotency WHERE scope = ? AND key = ?"
_BEGIN = (
    "INSERT INTO millstream_idempotency (scope, key, fingerprint, status, headers, body, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, key) DO NOTHING"
)
_FINISH = "UPDATE millstream_idempotency SET status = ?, headers = ?, body = ? WHERE scope = ? AND key = ?"
_FORGET = "DELETE FROM millstream_idempotency WHERE scope = ? AND key = ?"
_PURGE = (
    "DELETE FROM millstream_idempotency WHERE (scope, key) IN "
    "(SELECT scope, key FROM millstream_idempotency WHERE created < ? ORDER BY created LIMIT ?)"
)


class KeyMissing(Permanent):
    """The operation needs an idempotency key and the request carries none, or one that is not allowed."""


class KeyReused(Refused):
    """The key was used by this caller for another request of the same operation."""


class KeyInUse(Busy):
    """The first request with this key has not finished within the wait. Ask again later, with the same key."""


class StoredReply(msgspec.Struct, frozen=True):
    """A reply as it is kept: a status (HTTP or gRPC), headers as JSON text, and the body's bytes."""

    status: int
    body: bytes
    headers: str = "[]"


class Done(msgspec.Struct, frozen=True):
    """What the work gives back inside the transaction: its reply, and the events that leave with the commit."""

    reply: StoredReply
    outbox: Outbox
    keep: bool = True
    """False for a reply that must not be repeated to later requests; the work itself still commits."""


class Once(msgspec.Struct, frozen=True):
    """One request, as far as repeating it is concerned."""

    scope: str
    key: str
    fingerprint: bytes
    wait: float = WAIT_SECONDS


def scope_of(operation: str, caller: Caller) -> str:
    """The scope of a caller's keys for an operation. Lengths keep two different pairs from reading the same."""
    tenant = caller.tenant or ""
    return f"{operation} {len(tenant)}:{tenant}{caller.subject}"


def fingerprint_of(*parts: bytes) -> bytes:
    """16 bytes that differ for different requests. The bytes are compared, not their meaning."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def check_key(key: str | None, where: str) -> str:
    """The key, when it is one: 1 to 255 printable ASCII characters.

    Raises:
        KeyMissing: it is none; the message names `where` it belongs.
    """
    if not key:
        raise KeyMissing(f"send {where}: a value of your own choosing, the same for every repeat of this request")
    if len(key) > KEY_LIMIT or not key.isascii() or not key.isprintable():
        raise KeyMissing(f"{where} must have 1 to {KEY_LIMIT} printable ASCII characters")
    return key


class Idempotency:
    """Runs work at most once for a key, in the store that owns the work. One instance for a store and process.

    The map of requests under way is bounded by what the edge admits; a process that dies takes it along, and the table
    then decides alone.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._under_way: dict[tuple[str, str], list[asyncio.Future[_News]]] = {}

    async def run(
        self,
        once: Once,
        work: Callable[[Session], Awaitable[Done]],
        refusal: Callable[[MillstreamError], StoredReply | None],
    ) -> tuple[StoredReply, bool]:
        """Do the work, or repeat its reply; the flag says which: True for a repeat.

        `refusal` turns an error of the work into the reply to store, or None to store nothing and raise it.
        Cancelled while it waits for another request: nothing happened. Cancelled in its own work: as `Store.transact`.

        Raises:
            KeyReused: the key stands for another request. KeyInUse: the wait ran out.
            Whatever `work` raises that is not to be stored.
        """
        place = (once.scope, once.key)
        give_up = self._clock.monotonic() + once.wait
        while (waiting := self._under_way.get(place)) is not None:
            outcome = await self._wait(waiting, give_up)
            if outcome is not None:
                return _repeat(once, outcome[0], outcome[1]), True
        waiting = self._under_way[place] = []
        outcome = None
        try:
            reply, replayed, kept = await self._first(once, work, refusal)
            if kept:
                outcome = (once.fingerprint, reply)
            return reply, replayed
        finally:
            del self._under_way[place]
            for future in waiting:
                if not future.done():
                    future.set_result(_News(outcome))

    async def _wait(self, waiting: list[asyncio.Future[_News]], give_up: float) -> _Outcome | None:
        future: asyncio.Future[_News] = asyncio.get_running_loop().create_future()
        left = max(give_up - self._clock.monotonic(), 0.0)
        handle = self._clock.call_later(left, lambda: future.done() or future.set_result(_News(late=True)))
        waiting.append(future)
        try:
            news = await future
        finally:
            handle.cancel()
        if news.late:
            raise KeyInUse("the first request with this key has not finished yet; repeat it later")
        return news.outcome

    async def _first(
        self,
        once: Once,
        work: Callable[[Session], Awaitable[Done]],
        refusal: Callable[[MillstreamError], StoredReply | None],
    ) -> tuple[StoredReply, bool, bool]:
        created = self._clock.now_us()

        async def unit(session: Session) -> tuple[StoredReply, bool, bool]:
            begun = await session.execute(_BEGIN, once.scope, once.key, once.fingerprint, None, "[]", b"", created)
            if not begun:
                return await _stored(session, once), True, True
            done = await work(session)
            if done.keep:
                reply = done.reply
                session.queue(_FINISH, (reply.status, reply.headers, reply.body, once.scope, once.key))
            else:
                session.queue(_FORGET, (once.scope, once.key))
            await session.flush()
            await done.outbox.flush(session)
            return done.reply, False, done.keep

        try:
            return await self._store.transact(unit)
        except (KeyReused, KeyInUse):
            raise
        except MillstreamError as error:
            reply = refusal(error)
            if reply is None:
                raise
        return await self._keep_refusal(once, reply, created)

    async def _keep_refusal(self, once: Once, reply: StoredReply, created: int) -> tuple[StoredReply, bool, bool]:
        async def unit(session: Session) -> tuple[StoredReply, bool, bool]:
            kept = await session.execute(
                _BEGIN, once.scope, once.key, once.fingerprint, reply.status, reply.headers, reply.body, created
            )
            # Another process may have finished the same request since: what it stored is what everybody gets.
            return (reply, False, True) if kept else (await _stored(session, once), True, True)

        return await self._store.transact(unit)


async def purge(session: Session, older_than_us: int, limit: int = 1000) -> int:
    """Forget up to `limit` records made before a moment (microseconds since 1970), oldest first; return how many."""
    return await session.execute(_PURGE, older_than_us, limit)


_Outcome = tuple[bytes, StoredReply]
"""Fingerprint and reply of the first request."""


class _News(msgspec.Struct, frozen=True):
    """What a waiting repeat is told. Without an outcome nothing was stored: it may be the first now."""

    outcome: _Outcome | None = None
    late: bool = False


async def _stored(session: Session, once: Once) -> StoredReply:
    row = await session.fetch_one(_FIND, once.scope, once.key)
    if row is None or row[1] is None:
        raise KeyInUse("another request with this key is under way; repeat it later")
    return _repeat(once, bytes(row[0]), StoredReply(row[1], bytes(row[3]), row[2]))


def _repeat(once: Once, fingerprint: bytes, reply: StoredReply) -> StoredReply:
    if fingerprint != once.fingerprint:
        raise KeyReused("this idempotency key was used for another request; take a new key for a new request")
    return reply
