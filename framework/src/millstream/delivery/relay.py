"""The relay: outbox → log, in the order of the rows, confirmed before deleted (rules R1 to R3).

It sees committed rows only, because it reads beside the writer. A crash between confirmation and deletion repeats the
rows; the inbox drops the copies. There is no floor below which it does not look: a transaction that commits late
leaves rows with small ids.
"""

from __future__ import annotations

import asyncio

from ..clock import Clock
from ..errors import RecordRefused, StoreUnavailable, TransportUnavailable
from ..ids import Entropy
from ..message import Record, partition_of
from ..ports.instrumentation import Instrumentation
from ..ports.store import Row, Session, Store
from ..ports.transport import Transport
from ..resilience.backoff import Retry
from .outbox import OUTBOX_CHANNEL, SLOTS

__all__ = ["Relay"]

BATCH = 500
SWEEP_SECONDS = 1.0
_AWAY = Retry(first="100ms", cap="5s")

_ROWS = """
SELECT id, topic, key, value, (SELECT 1 FROM millstream_held_keys LIMIT 1) FROM millstream_outbox o
WHERE slot >= ? AND slot < ?
{held}{missing}ORDER BY id LIMIT ?
"""
_NOT_HELD = """AND NOT EXISTS (
    SELECT 1 FROM millstream_held_keys h WHERE h.topic = o.topic AND (h.key = o.key OR h.row_id = o.id)
)
"""


class Relay:
    """Forwards one shard of a store's outbox. Two relays of one shard at once are safe, only wasteful."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        *,
        clock: Clock,
        entropy: Entropy,
        instrumentation: Instrumentation,
        service: str,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        self._store = store
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._instrumentation = instrumentation
        self._labels = (("service", service),)
        self._slots = (SLOTS * shard // shards, SLOTS * (shard + 1) // shards)
        self._signal = store.listen(OUTBOX_CHANNEL)
        self._partitions: dict[str, int] = {}
        self._missing: set[str] = set()
        self._held = False
        """Whether any key was held when rows were last seen: each row says it, so that nobody has to ask beforehand."""
        self._look_again = 0.0
        self._stopping = False

    async def run(self) -> None:
        """Forward until stopped; on `stop`, what is in hand is confirmed and deleted first."""
        failures = 0
        while not self._stopping:
            try:
                forwarded = await self._round()
                failures = 0
            except (TransportUnavailable, StoreUnavailable) as error:
                failures += 1
                delay = _AWAY.delay(failures, self._entropy.random())
                self._instrumentation.log("warning", "relay_waits", error=str(error), delay_s=delay)
                await self._clock.sleep(delay)
                continue
            if not forwarded and not self._stopping:
                await self._signal.wait(SWEEP_SECONDS)
        self._signal.close()

    def stop(self) -> None:
        """Finish the round at hand and end."""
        self._stopping = True
        self._signal.set()

    async def _round(self) -> bool:
        """Forward the oldest rows; False when there was nothing to do."""
        rows = await self._oldest(BATCH)
        if not rows:
            return False
        by_place = await self._placed(rows)
        if not by_place:
            return bool(self._missing)  # the window was full of them: look at what lies behind
        confirmed: list[int] = []
        refused: list[tuple[Row, str]] = []
        error: BaseException | None = None
        if len(by_place) == 1:
            ((place, part),) = by_place.items()
            error = await self._publish(*place, part, confirmed, refused)
        else:
            async with asyncio.TaskGroup() as publishing:
                tasks = [
                    publishing.create_task(self._publish(*place, part, confirmed, refused))
                    for place, part in by_place.items()
                ]
            error = next((e for e in (t.result() for t in tasks) if e is not None), None)
        if confirmed:
            self._instrumentation.count("millstream_relayed_total", self._labels, len(confirmed))
            await self._delete(confirmed)
        for row, reason in refused:
            await self._hold(row, reason)
        if error is not None:
            raise error
        return True

    async def _oldest(self, limit: int) -> list[Row]:
        """The oldest rows that may leave: neither held keys nor topics that do not exist may fill the window."""
        now = self._clock.monotonic()
        if self._missing and now >= self._look_again:
            self._look_again = now + SWEEP_SECONDS
            self._missing = {
                topic for topic in sorted(self._missing) if await self._transport.partitions(topic) is None
            }
        rows = await self._select(limit)
        if rows and rows[0][4] is None:
            self._held = False
        elif rows and not self._held:
            self._held = True
            rows = await self._select(limit)
        return rows

    async def _select(self, limit: int) -> list[Row]:
        marks = ", ".join("?" * len(self._missing))
        sql = _ROWS.format(
            held=_NOT_HELD if self._held else "", missing=f"AND topic NOT IN ({marks})\n" if self._missing else ""
        )
        return await self._store.query(sql, *self._slots, *sorted(self._missing), limit)

    async def _placed(self, rows: list[Row]) -> dict[tuple[str, int], list[Row]]:
        """Rows by topic and partition, in order; rows of topics that do not exist yet stay where they are (L4)."""
        by_place: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            topic, key = row[1], row[2]
            partitions = self._partitions.get(topic)
            if partitions is None:
                found = await self._transport.partitions(topic)
                if found is None:
                    if topic not in self._missing:
                        self._missing.add(topic)
                        self._look_again = self._clock.monotonic() + SWEEP_SECONDS
                        self._instrumentation.log("error", "topic_not_provisioned", topic=topic)
                    continue
                partitions = self._partitions[topic] = found
            by_place.setdefault((topic, partition_of(key if key is not None else str(row[0]), partitions)), []).append(
                row
            )
        return by_place

    async def _publish(
        self, topic: str, partition: int, rows: list[Row], confirmed: list[int], refused: list[tuple[Row, str]]
    ) -> BaseException | None:
        """Publish rows of one partition; collect what is confirmed and what is refused, return what went wrong."""
        while rows:
            try:
                durable = await self._transport.publish(topic, partition, [Record(r[3], r[2]) for r in rows])
            except RecordRefused as error:
                confirmed += (r[0] for r in rows[: error.index])
                bad = rows[error.index]
                refused.append((bad, error.reason))
                # Behind a refused row its key waits for an operator; the other keys go on (rule R3).
                rows = [r for r in rows[error.index + 1 :] if bad[2] is None or r[2] != bad[2]]
            except TransportUnavailable as error:
                return error
            else:
                confirmed += (r[0] for r in rows[:durable])
                if durable < len(rows):
                    return TransportUnavailable(f"{topic}/{partition}: {len(rows) - durable} records unconfirmed")
                return None
        return None

    async def _delete(self, ids: list[int]) -> None:
        async def work(session: Session) -> None:
            await session.execute_many("DELETE FROM millstream_outbox WHERE id >= ? AND id <= ?", _runs(ids))

        try:
            await self._store.transact(work)
        except StoreUnavailable as error:
            # They will be published again and dropped by every inbox: repeated, never lost.
            self._instrumentation.log("warning", "relay_delete_failed", error=str(error), rows=len(ids))

    async def _hold(self, row: Row, reason: str) -> None:
        id_, topic, key = row[0], row[1], row[2]

        async def work(session: Session) -> None:
            await session.execute(
                "INSERT INTO millstream_held_keys (topic, key, row_id, reason, since) "
                "VALUES (?, ?, ?, ?, millstream_now()) ON CONFLICT DO NOTHING",
                topic,
                key if key is not None else f"#{id_}",
                id_,
                reason,
            )

        await self._store.transact(work)
        self._instrumentation.log("error", "key_held", topic=topic, lane=key, row=id_, reason=reason)


def _runs(ids: list[int]) -> list[tuple[int, int]]:
    """The ids as runs without a gap: (first, last) of each. A run holds no id that is not among them."""
    ids.sort()
    runs: list[tuple[int, int]] = []
    first = last = ids[0]
    for id_ in ids[1:]:
        if id_ != last + 1:
            runs.append((first, last))
            first = id_
        last = id_
    runs.append((first, last))
    return runs
