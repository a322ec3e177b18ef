"""`Operations` of a service that runs in another process, over that process's admin API."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from ..delivery.operations_api import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterRow,
    HeldRow,
    LaneRow,
    LaneState,
    Moved,
    OutboxState,
    PositionRow,
)
from ..http.problems import Problem, ProblemDocument
from .siblings import Siblings

__all__ = ["RemoteOperations"]

T = TypeVar("T")


class RemoteOperations:
    """Every call asks a process that runs the service.

    Raises (of every call):
        Problem: what that process refused, in its words; 503 when none answers.
    """

    def __init__(self, service: str, siblings: Siblings) -> None:
        self._service = service
        self._siblings = siblings

    @property
    def service(self) -> str:
        return self._service

    async def lanes(
        self,
        *,
        subscription: str | None = None,
        key: str | None = None,
        state: LaneState | None = None,
        limit: int = 100,
    ) -> list[LaneRow]:
        given = {"subscription": subscription, "key": key, "state": state, "limit": limit}
        return await self._ask("lanes", list[LaneRow], given)

    async def positions(self, *, subscription: str | None = None) -> list[PositionRow]:
        return await self._ask("positions", list[PositionRow], {"subscription": subscription})

    async def dead_letters(self, letters: DeadLetterFilter, *, limit: int = 100) -> list[DeadLetterRow]:
        return await self._ask("dead_letters", list[DeadLetterRow], {"letters": letters, "limit": limit})

    async def dead_letter(self, letter_id: int) -> DeadLetter | None:
        return await self._ask(
            "dead_letter", cast(type[DeadLetter | None], DeadLetter | None), {"letter_id": letter_id}
        )

    async def redrive(
        self,
        letters: DeadLetterFilter,
        *,
        dry_run: bool = False,
        edit: bytes | None = None,
        rate: float | None = None,
        limit: int = 500,
    ) -> Moved:
        given = {"letters": letters, "dry_run": dry_run, "edit": edit, "rate": rate, "limit": limit}
        return await self._ask("redrive", Moved, given)

    async def drop(self, letters: DeadLetterFilter, *, dry_run: bool = False, limit: int = 500) -> Moved:
        return await self._ask("drop", Moved, {"letters": letters, "dry_run": dry_run, "limit": limit})

    async def outbox(self) -> OutboxState:
        return await self._ask("outbox", OutboxState, {})

    async def held_row(self, topic: str, key: str) -> HeldRow | None:
        kind = cast(type[HeldRow | None], HeldRow | None)
        return await self._ask("held_row", kind, {"topic": topic, "key": key})

    async def free_key(self, topic: str, key: str) -> None:
        await self._ask("free_key", type(None), {"topic": topic, "key": key})

    async def edit_row(self, topic: str, key: str, row_id: int, data: bytes) -> None:
        await self._ask("edit_row", type(None), {"topic": topic, "key": key, "row_id": row_id, "data": data})

    async def drop_row(self, topic: str, key: str, row_id: int) -> None:
        await self._ask("drop_row", type(None), {"topic": topic, "key": key, "row_id": row_id})

    async def skip(self, subscription: str, partition: int, to: int) -> int:
        return await self._ask("skip", int, {"subscription": subscription, "partition": partition, "to": to})

    async def _ask(self, call: str, kind: type[T], given: dict[str, Any]) -> T:
        path = f"/admin/operations/{self._service}/{call}"
        reply = await self._siblings.ask(
            self._service, "POST", path, msgspec.json.encode(given), {"content-type": "application/json"},
            as_operator=True,
        )  # fmt: skip
        if reply.status == 200:
            return msgspec.json.decode(reply.body, type=kind)
        try:
            document = msgspec.json.decode(reply.body, type=ProblemDocument)
        except msgspec.DecodeError:
            raise Problem(502, f"{self._service} answered {reply.status}") from None
        kind_of_problem = document.type.removeprefix("/problems/").removeprefix("about:blank")
        raise Problem(reply.status, document.detail, problem=kind_of_problem)
