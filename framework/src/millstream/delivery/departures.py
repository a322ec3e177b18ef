"""Noticing a worker whose process ended without a word, seconds after it did instead of a lease later.

A lease has to outlast the longest call and the longest pause, so a takeover that waits for it is slow. Where the store can
tell that a process has ended (`Presence`), a worker is taken for dead when it is not there any more **and** has missed a sign
of life: whoever only lost a connection gives the next one in time. A mistake would cost a takeover, never the
promise: the claim's epoch fences whoever still works (rule C1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..clock import Clock
from ..errors import StoreUnavailable
from ..ports.instrumentation import Instrumentation
from ..ports.store import Presence, Store
from . import claims

__all__ = ["SIGN_SECONDS", "Departures"]

SIGN_SECONDS = 2.0
"""How often a worker gives a sign of life where others can see it gone."""
SILENT_SECONDS = 2.5
LOOK_SECONDS = 0.5


class Departures:
    """What one worker knows of the others of its service."""

    def __init__(
        self, store: Store, presence: Presence, worker: str, *, clock: Clock, instrumentation: Instrumentation
    ) -> None:
        self._store = store
        self._presence = presence
        self._worker = worker
        self._clock = clock
        self._instrumentation = instrumentation
        self._seen: dict[str, tuple[int, float]] = {}
        """Of each other worker: its last sign of life, and since when that is the last one."""

    async def watch(self, freed: Callable[[], object]) -> None:
        """For ever: free the claims of workers that are gone; `freed` is called when there were some."""
        while True:
            try:
                if await self._look():
                    freed()
            except StoreUnavailable:
                self._seen.clear()  # what was missed meanwhile says nothing; the worker itself tells that the store is away
            await self._clock.sleep(LOOK_SECONDS)

    async def _look(self) -> bool:
        rows = await self._store.query("SELECT id, expires FROM millstream_workers WHERE id <> ?", self._worker)
        now = self._clock.monotonic()
        seen = self._seen
        self._seen = {id_: seen[id_] if seen.get(id_, (0,))[0] == expires else (expires, now) for id_, expires in rows}
        silent = [id_ for id_, (_, since) in self._seen.items() if now - since >= SILENT_SECONDS]
        freed = False
        for worker in await self._presence.gone(silent) if silent else ():
            if await self._store.transact(partial(claims.free, worker=worker, expires=self._seen[worker][0])):
                self._instrumentation.log("warning", "worker_gone", worker=worker)
                freed = True
        return freed
