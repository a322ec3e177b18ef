"""What an operator may ask of one service's store: the protocol of `operations_api` over the kernel's tables.

Reads see committed rows only; those that may take long run beside the writer. Every change that concerns a partition
writes its claim row first, in a transaction of that claim alone (rules C1, C9), so it never races with the holder.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

from ..clock import Clock
from ..errors import Refused
from ..ports.store import Session, Store
from . import dead_letters, operations_lanes, operations_letters, operations_outbox
from .operations_api import (
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

__all__ = ["StoreOperations"]


@final
class StoreOperations:
    """Implements `Operations` for one service. `effects`: the names of its subscriptions that are effects."""

    def __init__(self, service: str, store: Store, clock: Clock, effects: Collection[str] = ()) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._effects = frozenset(effects)
        self._paced_until = 0.0

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
        return await operations_lanes.lane_rows(self._store, self._service, subscription, key, state, limit)

    async def positions(self, *, subscription: str | None = None) -> list[PositionRow]:
        return await operations_lanes.position_rows(self._store, self._service, self._effects, subscription)

    async def skip(self, subscription: str, partition: int, to: int) -> int:
        return await operations_lanes.skip(self._store, self._service, subscription, partition, to)

    # -- dead letters -------------------------------------------------------------------------------------------

    async def dead_letters(self, letters: DeadLetterFilter, *, limit: int = 100) -> list[DeadLetterRow]:
        return await operations_letters.letter_rows(self._store, self._service, letters, limit)

    async def dead_letter(self, letter_id: int) -> DeadLetter | None:
        return await operations_letters.show(self._store, self._service, letter_id)

    async def redrive(
        self,
        letters: DeadLetterFilter,
        *,
        dry_run: bool = False,
        edit: bytes | None = None,
        rate: float | None = None,
        limit: int = 500,
    ) -> Moved:
        if rate is not None and rate <= 0:
            raise Refused(f"rate {rate}: letters per second, above 0")
        if edit is not None and len(letters.ids) != 1:
            raise Refused("new data is for one letter: name it by its id")
        found, matched = await operations_letters.find(
            self._store, self._service, letters, limit, operations_letters.REDRIVABLE
        )
        one = len(letters.ids) == 1
        if one and not found:
            raise Refused(
                f"dead letter {letters.ids[0]} is not there, or has no readable envelope and can only be dropped"
            )
        changed = None
        if edit is not None:
            changed = operations_letters.edited(await self._value(letters.ids[0]), edit)
        delays = self._delays([id_ for id_, _ in found], rate, dry_run)

        async def step(session: Session, id_: int) -> None:
            await dead_letters.redrive(session, id_, changed, delays.get(id_, 0))

        return await operations_letters.move(self._store, found, matched, step, dry_run=dry_run, strict=one)

    async def drop(self, letters: DeadLetterFilter, *, dry_run: bool = False, limit: int = 500) -> Moved:
        found, matched = await operations_letters.find(self._store, self._service, letters, limit)
        return await operations_letters.move(
            self._store, found, matched, dead_letters.drop, dry_run=dry_run, strict=False
        )

    async def _value(self, letter: int) -> bytes:
        rows = await self._store.query("SELECT value FROM millstream_dead_letters WHERE id = ?", letter)
        if not rows:
            raise Refused(f"there is no dead letter {letter}; it was redriven or dropped already")
        return bytes(rows[0][0])

    def _delays(self, ids: list[int], rate: float | None, dry_run: bool) -> dict[int, int]:
        """How much later each letter is due. A following call goes on where this one's due times end."""
        if rate is None or dry_run:
            return {}
        now = self._clock.monotonic()
        begin = max(now, self._paced_until)
        self._paced_until = begin + len(ids) / rate
        return {id_: round((begin - now + index / rate) * 1e6) for index, id_ in enumerate(ids)}

    # -- the outbox ---------------------------------------------------------------------------------------------

    async def outbox(self) -> OutboxState:
        return await operations_outbox.outbox_state(self._store, self._service)

    async def held_row(self, topic: str, key: str) -> HeldRow | None:
        return await operations_outbox.held_row(self._store, topic, key)

    async def free_key(self, topic: str, key: str) -> None:
        await operations_outbox.free_key(self._store, topic, key)

    async def edit_row(self, topic: str, key: str, row_id: int, data: bytes) -> None:
        await operations_outbox.edit_row(self._store, topic, key, row_id, data)

    async def drop_row(self, topic: str, key: str, row_id: int) -> None:
        await operations_outbox.drop_row(self._store, topic, key, row_id)
