"""The parked path without one of its rules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ...delivery.lanes import HELD
from ...ports.store import Session
from .through import OneStore, SessionThrough, StoreThrough, Work, rewriting

__all__ = ["FenceStandsStill", "LaneRowGoes", "NoHold", "ParkedApart", "RedriveBehind"]


class LaneRowGoes(OneStore):
    """A lane's row goes with its head, also while others wait behind it."""

    kind = rewriting({
        "SELECT 1 FROM millstream_parked WHERE subscription": "SELECT 1 FROM millstream_parked WHERE FALSE AND subscription"
    })  # fmt: skip


class FenceStandsStill(OneStore):
    """All calls of a holder carry one fence."""

    kind = rewriting({"fence = fence + ?\n": "fence = fence + 0 * ?\n"})


class NoHold(OneStore):
    """A dead letter does not hold its lane, although its subscription says so."""

    class kind(StoreThrough):  # noqa: N801 - the class that is the value of `kind`
        def session(self, session: Session) -> Any:
            return _GoingOn(session)


class _GoingOn(SessionThrough):
    async def execute(self, sql: str, *params: Any) -> int:
        if sql.startswith("INSERT INTO millstream_lanes") and HELD in params[4:5]:
            return 1
        return await self.inner.execute(sql, *params)


class RedriveBehind(OneStore):
    """A redriven letter takes the last place of its lane instead of its own."""

    class kind(StoreThrough):  # noqa: N801 - as above
        def session(self, session: Session) -> Any:
            return _AtTheEnd(session)


class _AtTheEnd(SessionThrough):
    async def execute(self, sql: str, *params: Any) -> int:
        if sql.startswith("INSERT INTO millstream_parked"):
            params = (*params[:5], params[5] + 1_000_000, *params[6:])
        return await self.inner.execute(sql, *params)


class ParkedApart(OneStore):
    """Messages are parked by a transaction of their own, behind the one that moved the position past them."""

    class kind(StoreThrough):  # noqa: N801 - as above
        async def transact(self, work: Work) -> Any:
            later: list[tuple[str, Sequence[Any]]] = []
            result = await self.through(partial(_ParkingLater, later=later), work)
            if later:

                async def park(session: Session) -> None:
                    for sql, rows in later:
                        await session.execute_many(sql, rows)

                await self.inner.transact(park)
            return result


class _ParkingLater(SessionThrough):
    def __init__(self, inner: Any, later: list[tuple[str, Sequence[Any]]]) -> None:
        super().__init__(inner)
        self._later = later

    async def execute_many(self, sql: str, rows: Sequence[Any]) -> None:
        if "INTO millstream_parked" in sql or "INTO millstream_lanes" in sql:
            self._later.append((sql, list(rows)))
        else:
            await self.inner.execute_many(sql, rows)
