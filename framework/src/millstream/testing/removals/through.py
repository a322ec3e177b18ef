"""What stand-ins are made of: sessions, stores and logs that pass everything on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ... import delivery
from ...ports.store import Row, Session, Store
from ...ports.transport import Transport
from .removal import Removal

__all__ = ["OneStore", "Rewritten", "SessionThrough", "StoreThrough", "TransportThrough", "Work", "rewriting"]

_KERNEL = [file.read_text() for file in Path(delivery.__file__).parent.glob("*.py")]

Work = Callable[[Any], Awaitable[Any]]
"""What a transaction runs; its session may be one of the stand-ins."""


class SessionThrough:
    """A session that passes everything on."""

    def __init__(self, inner: Any) -> None:
        self.inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class StoreThrough:
    """A store that passes everything on; `session` may put another session in."""

    def __init__(self, inner: Any) -> None:
        self.inner: Any = inner
        self.between: Callable[[], object] = lambda: None
        """Called where one transaction was torn into two: a place to crash at."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def session(self, session: Session) -> Any:
        """What the work gets instead of the session."""
        return session

    async def transact(self, work: Work) -> Any:
        return await self.through(self.session, work)

    async def through(self, wrap: Callable[[Any], Any], work: Work) -> Any:
        """Run `work` on the session that `wrap` makes of the real one."""

        async def wrapped(session: Any) -> Any:
            return await work(wrap(session))

        return await self.inner.transact(wrapped)

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.inner.__aexit__(*error)


class TransportThrough:
    """A log that passes everything on."""

    def __init__(self, inner: Transport) -> None:
        self.inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.inner.__aexit__(*error)


class OneStore(Removal):
    """Replaces the stores of the services in `of` by `kind`."""

    kind: type[Any] = StoreThrough
    of: tuple[str, ...] = ("till",)

    def store(self, store: Store, service: str) -> Store:
        return self.kind(store) if service in self.of else store


class Rewritten(SessionThrough):
    """Replaces a part of each statement that has it. A replacement must take as many parameters."""

    def __init__(self, inner: Any, parts: dict[str, str]) -> None:
        super().__init__(inner)
        self._parts = parts

    def _sql(self, sql: str) -> str:
        for part, other in self._parts.items():
            sql = sql.replace(part, other)
        return sql

    async def execute(self, sql: str, *params: Any) -> int:
        return await self.inner.execute(self._sql(sql), *params)

    async def fetch_one(self, sql: str, *params: Any) -> Row | None:
        return await self.inner.fetch_one(self._sql(sql), *params)

    async def fetch(self, sql: str, *params: Any) -> list[Row]:
        return await self.inner.fetch(self._sql(sql), *params)

    def queue(self, sql: str, params: Any, check: Any = None) -> None:
        self.inner.queue(self._sql(sql), params, check)

    def queue_fetch(self, sql: str, params: Any, take: Any) -> None:
        self.inner.queue_fetch(self._sql(sql), params, take)


def rewriting(parts: dict[str, str]) -> type[StoreThrough]:
    """A store whose statements are rewritten.

    Raises:
        AssertionError: no statement of the kernel has such a part. It was worded anew, so its safeguard would stay in place, and a
            test would blame the invariants.
    """
    gone = [part for part in parts if not any(part in text for text in _KERNEL)]
    assert not gone, f"no statement of the kernel contains {gone}"

    class Rewriting(StoreThrough):
        def session(self, session: Session) -> Any:
            return Rewritten(session, parts)

    return Rewriting
