"""A batch: many messages in log order, one transaction (rules C1 to C3, C7, C8).

    one tx { claim still mine · inbox · handlers in order · parked and dead letters · outbox · position } → COMMIT

A message that fails costs the batch nothing: where savepoints are cheap it runs in one; elsewhere it is taken out and
the rest runs again. What cannot run now is parked, and everything of its lane queues up behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from ..ports.instrumentation import current_trace
from ..ports.store import Attributing, Session
from . import claims, dead_letters, inbox, lanes
from .consumption import Consumption
from .dead_letters import HOLDS, NO_LANE, WENT_ON
from .lanes import GAP, UNKNOWN, WAITING, Lane, Parked
from .outbox import Outbox
from .prepared import Prepared
from .sequences import Order, Sequences
from .tx import Tx, publish_returned
from .verdict import describe, verdict_of

__all__ = ["Report", "TakeOut", "run_batch"]


class Report:
    """What a batch did, for the metrics and for the loop that ran it. Counters by metric name."""

    __slots__ = ("counts", "parked", "seconds")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.parked = 0
        self.seconds = 0.0


class TakeOut(Exception):
    """A message failed on a store without cheap savepoints: run again without it (rule C3)."""

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(index)
        self.index = index
        self.error = error


async def run_batch(
    session: Session, c: Consumption, batch: Sequence[Prepared], failed: dict[int, BaseException], savepoints: bool
) -> Report:
    """Run a batch inside a transaction. `failed`: messages already known to fail, by index.

    Raises:
        ClaimLost: the claim has another holder; nothing may be kept.
        TakeOut: without savepoints, the index and error of a message that failed just now.
    """
    return await _Batch(session, c, batch, failed, savepoints).run()


class _Batch:
    def __init__(
        self,
        session: Session,
        c: Consumption,
        batch: Sequence[Prepared],
        failed: dict[int, BaseException],
        savepoints: bool,
    ) -> None:
        self.session = session
        self.c = c
        self.batch = batch
        self.failed = failed
        self.savepoints = savepoints
        # Without savepoints and with somebody who remembers whose write failed, writes of many messages travel together.
        # Asked by name: `isinstance` of a protocol takes 10 µs on Python 3.11, and a batch is often a few messages.
        able = not savepoints and hasattr(session, "attribute")
        self.attributing = cast(Attributing, session) if able else None
        self.now_us = c.clock.now_us()
        self.outbox = Outbox(c.origin)
        self.tx = Tx(session, self.outbox, self.now_us)
        self.report = Report()
        self.handled = 0
        self.parked: list[Parked] = []
        self.waiting: set[Lane] = set()
        sequence = c.subscription.sequence
        self.sequences = None if sequence is None else Sequences(session, c.claim, sequence)

    async def run(self) -> Report:
        try:
            return await self._run()
        except TakeOut:
            raise
        except BaseException as error:
            blamed = None if self.attributing is None else self.attributing.blamed
            if blamed is None:
                raise
            verdict_of(blamed[1], 1, 1)  # raises what is not the message's fault
            raise TakeOut(*blamed) from error

    async def _run(self) -> Report:
        c, batch, began = self.c, self.batch, self.c.clock.monotonic()
        # One trip to the store: the claim, the lanes, and all of the inbox that has to be known before a handler runs.
        claims.advance(self.session, c.claim, batch[-1].position, len(batch))
        found_any = lanes.look_for_any(self.session, c.claim)
        admitted = await inbox.admit(self.session, c.claim, batch, self.now_us, c.limits.inbox_retention_us)
        self.waiting = await lanes.lanes_among(self.session, c.claim, batch, found_any)
        if self.sequences is not None:
            await self.sequences.load([(item.tenant, item.key) for item in batch])
        ready: list[int] = []
        for index, item in enumerate(batch):
            if admitted[index] != "new":
                await self._not_new(item, admitted[index])
            elif self.sequences is not None and (order := await self._order(self.sequences, item)) != "next":
                await self._out_of_order(item, order)
            elif not self._runs(index, item):
                await self._set_aside(index, item)
            elif index in self.failed:
                await self._failed(item, self.failed[index])
            elif c.subscription.batched:
                ready.append(index)
            else:
                await self._handle(index, item)
        replayed = [index for index in ready if batch[index].position <= c.muted_until]
        for part in (replayed, ready[len(replayed) :]):
            if part:
                await self._handle_together(part)
        await self.session.flush()
        if self.parked:
            await lanes.park(self.session, c.claim, self.parked)
            self.report.parked = len(self.parked)
            self.report.counts["millstream_messages_parked_total"] += len(self.parked)
        if self.sequences is not None:
            await self.sequences.flush(self.now_us)
        await self.outbox.flush(self.session)
        self.report.counts["millstream_messages_handled_total"] = self.handled
        self.report.seconds = c.clock.monotonic() - began
        return self.report

    def _runs(self, index: int, item: Prepared) -> bool:
        """Whether a message runs in this batch."""
        if item.fate != "run" or index < self.c.claim.suspect or self.c.subscription.effect:
            return False
        return not self.waiting or (item.tenant, item.key) not in self.waiting

    async def _set_aside(self, index: int, item: Prepared) -> None:
        """Park, bury or skip what does not run in a batch now."""
        if item.fate == "skip":
            self.report.counts["millstream_messages_skipped_total"] += 1
        elif (item.tenant, item.key) in self.waiting and item.lane:
            self._park(item)
        elif item.fate == "undecodable":
            await self._bury(item, "undecodable", item.error, 0)
        elif item.fate == "unknown":
            # Due again when a worker takes the claim over: a rolling deploy brings one that knows the type.
            self._park(item, state=UNKNOWN, error=item.error)
        elif index < self.c.claim.suspect:
            self._park(item, starts=1, error="the process that ran this batch ended without releasing its claim")
        else:  # an effect
            self._park(item)

    async def _not_new(self, item: Prepared, why: str) -> None:
        if why == "old":
            await self._bury(item, "older than the inbox", "nobody can tell any more whether it was handled", 0, False)
        else:
            self.report.counts["millstream_messages_duplicate_total"] += 1

    async def _order(self, sequences: Sequences, item: Prepared) -> Order:
        return await sequences.judge(item, (item.tenant, item.key) in self.waiting)

    async def _out_of_order(self, item: Prepared, order: Order) -> None:
        """Put a numbered message that is not next where it belongs (rule F3)."""
        sequence = self.c.subscription.sequence
        assert sequence is not None
        if order == "behind":
            self._park(item)
        elif order == "early":
            self._park(item, due=self.now_us + round(sequence.gap * 1e6), state=GAP)
        elif item.fate == "skip":
            self.report.counts["millstream_messages_skipped_total"] += 1
        elif order == "stale":
            await self._bury(item, "stale", f"number {item.layout} was let in already", 0, False)
        else:
            error = item.error or f"no number to be read in field {sequence.field!r}"
            await self._bury(item, "undecodable", error, 0, False)

    async def _handle(self, index: int, item: Prepared) -> None:
        """Run one message's handler; its changes and events stay only if it succeeds."""
        session, tx, savepoints = self.session, self.tx, self.savepoints
        muted = item.position <= self.c.muted_until
        mark = self.outbox.mark() if savepoints or muted else None
        if savepoints:
            await session.savepoint()
        if self.attributing is not None:
            self.attributing.attribute(index)
        try:
            tx._cause = item.message  # pyright: ignore[reportPrivateUsage] - one Tx serves the batch; the kernel owns it
            current_trace.set(item.message.traceparent)
            returned = await self.c.subscription.handle(item.event, tx)
            if returned is not None:
                publish_returned(tx, returned)
            if self.attributing is None:
                await session.flush()
            if muted and mark is not None:
                self.outbox.cut(mark)
        except BaseException as error:
            if self.attributing is not None and self.attributing.blamed is not None:
                raise  # whoever's write it was
            verdict_of(error, 1, 1)  # raises what is not the message's fault
            if mark is None or not savepoints:
                raise TakeOut(index, error) from error
            await session.rollback()
            self.outbox.cut(mark)
            await self._failed(item, error)
        else:
            if savepoints:
                await session.release()
            self.handled += 1

    async def _handle_together(self, ready: list[int]) -> None:
        """Give a batched handler all its messages at once; if that fails, one by one to find out whose fault it is."""
        session, mark = self.session, self.outbox.mark()
        items = [self.batch[i] for i in ready]
        await session.savepoint()  # one for the whole batch: worth it on every store
        try:
            self.tx._cause = items[0].message  # pyright: ignore[reportPrivateUsage] - as above
            publish_returned(self.tx, await self.c.subscription.handle([i.event for i in items], self.tx))
            await session.flush()
            if items[0].position <= self.c.muted_until:
                self.outbox.cut(mark)
        except BaseException as error:  # noqa: BLE001 - as above
            verdict_of(error, 1, 1)
            await session.rollback()
            self.outbox.cut(mark)
            if len(items) == 1:
                await self._failed(items[0], error)
                return
            for index in ready:
                item = self.batch[index]
                if (item.tenant, item.key) in self.waiting:
                    self._park(item)
                else:
                    await self._handle_together([index])
        else:
            await session.release()
            self.handled += len(items)

    async def _failed(self, item: Prepared, error: BaseException) -> None:
        retry = self.c.subscription.retry
        verdict = verdict_of(error, 1, retry.attempts)
        if verdict == "drop":
            self.report.counts["millstream_messages_dropped_total"] += 1
        elif verdict == "dead":
            await self._bury(item, "failed", describe(error), 1)
        else:
            delay = retry.delay(1, self.c.entropy.random())
            self._park(item, due=self.now_us + round(delay * 1e6), attempts=1, error=describe(error))
            self.report.counts["millstream_messages_failed_total"] += 1

    def _park(
        self,
        item: Prepared,
        *,
        due: int | None = None,
        state: int = WAITING,
        attempts: int = 0,
        starts: int = 0,
        error: str = "",
    ) -> None:
        self.parked.append(
            Parked(item, self.now_us, due=due, state=state, attempts=attempts, starts=starts, error=error)
        )
        self.waiting.add((item.tenant, item.key))

    async def _bury(self, item: Prepared, reason: str, error: str, attempts: int, lane: bool = True) -> None:
        lane = lane and item.lane
        holds = lane and self.c.subscription.after_dead_letter == "hold"
        await dead_letters.bury(
            self.session,
            self.c.claim,
            tenant=item.tenant,
            key=item.key,
            lane=HOLDS if holds else WENT_ON if lane else NO_LANE,
            layout=item.layout,
            position=item.position,
            value=item.value,
            attempts=attempts,
            reason=reason,
            error=error,
            now_us=self.now_us,
        )
        self.report.counts["millstream_dead_letters_total"] += 1
        self.c.instrumentation.log(
            "error",
            "dead_letter",
            subscription=self.c.subscription.name,
            lane=item.key,
            message_id=item.message.id,
            reason=reason,
            error=error,
        )
        if holds:
            await lanes.hold(self.session, self.c.claim, item.tenant, item.key, self.now_us)
            self.waiting.add((item.tenant, item.key))
