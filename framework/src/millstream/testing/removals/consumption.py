"""Consumption without one of its rules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ...ports.store import Session
from .through import OneStore, SessionThrough, StoreThrough, Work, rewriting

__all__ = ["NoEpochCheck", "NoInbox", "NoLaneCheck", "NoStartMarker", "NoSuspicion", "NoUndo", "PositionApart"]

_ADVANCE = "UPDATE millstream_claims\nSET position = ?"


class NoInbox(OneStore):
    """Every message is new."""

    class kind(StoreThrough):  # noqa: N801 - the class that is the value of `kind`
        def session(self, session: Session) -> Any:
            return _AllNew(session)


class _AllNew(SessionThrough):
    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> list[bool]:
        await self.inner.insert_new(table, columns, rows)
        return [True] * len(rows)


class PositionApart(OneStore):
    """The position is committed before the work that it stands for."""

    class kind(StoreThrough):  # noqa: N801 - as above
        async def transact(self, work: Work) -> Any:
            advance: list[tuple[str, tuple[Any, ...]]] = []
            try:
                return await self.through(partial(_Without, advance=advance), work)
            except _Learned:
                pass

            async def only_position(session: Session) -> None:
                for sql, params in advance:
                    await session.execute(sql, *params)

            await self.inner.transact(only_position)
            self.between()
            return await self.through(partial(_Without, advance=advance), work)


class _Learned(BaseException):
    """The first run was only to see where the position goes; nothing of it is kept."""


class _Without(SessionThrough):
    def __init__(self, inner: Any, advance: list[tuple[str, tuple[Any, ...]]]) -> None:
        super().__init__(inner)
        self._advance = advance

    def queue(self, sql: str, params: Any, check: Any = None) -> None:
        if not sql.strip().startswith(_ADVANCE):
            self.inner.queue(sql, params, check)
        elif not self._advance:
            self._advance.append((sql, params))
            raise _Learned


class NoLaneCheck(OneStore):
    """A batch does not see that a lane has messages parked: what comes behind them overtakes."""

    kind = rewriting({"SELECT 1 FROM millstream_lanes WHERE": "SELECT 1 FROM millstream_lanes WHERE FALSE AND"})


class NoEpochCheck(OneStore):
    """A holder that was replaced goes on writing."""

    kind = rewriting({
        "AND epoch = ? AND position = ?": "AND epoch >= 0 * ? AND position >= 0 * ?",
        "AND epoch = ? RETURNING fence": "AND epoch >= 0 * ? RETURNING fence",
    })  # fmt: skip


class NoStartMarker(OneStore):
    """Starts of parked messages are not counted: one that kills its process is never known by it."""

    kind = rewriting({
        "UPDATE millstream_parked SET starts = ? WHERE": "UPDATE millstream_parked SET starts = 0 * ? WHERE",
        "AND starts = ?": "AND starts >= 0 * ?",
    })  # fmt: skip


class NoSuspicion(OneStore):
    """A claim that was not released is taken as if it had been: what killed its holder runs in a batch again."""

    kind = rewriting({"ELSE ? END\nWHERE (subscription": "ELSE 0 * ? END\nWHERE (subscription"})


class NoUndo(OneStore):
    """What a failing handler changed stays."""

    class kind(StoreThrough):  # noqa: N801 - as above
        def session(self, session: Session) -> Any:
            return _Keeping(session)


class _Keeping(SessionThrough):
    async def rollback(self) -> None:
        await self.inner.release()
