"""One claim at work: a loop that reads its partition in batches, and one that runs what is parked.

Both end when the claim is lost. `stop` ends them in order: no new batches and starts, then the calls under way get
until the deadline, then they are cancelled and their starts given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from ..errors import ClaimLost, ForeignWait, StoreUnavailable, TransportUnavailable
from ..message import Record
from ..ports.instrumentation import Field
from ..ports.transport import Reader, Transport
from ..ports.wake import Wake
from .batch import Report, TakeOut, run_batch
from .claims import Claim
from .consumption import Consumption
from .effects import Slots, run_call
from .parking import Concluded, GivenBack, Started, Turn, run_turn
from .prepared import Prepared, prepare
from .replay import muted_until

__all__ = ["Consumer"]

TAKE_OUTS = 3
"""Failing messages that are taken out of a batch before it is run one by one (rule C3)."""
CAREFUL_BATCHES = 16
"""Where savepoints are cheap, a batch runs without them until a message fails, then it runs again with one for each,
and so do the next batches: failures come in crowds. Without failures a savepoint is a tenth of a message's cost."""
PAUSE = 1.0
"""Seconds to wait while the store or the log is away."""
IDLE = 60.0
SAMPLED = "-01"
"""How a traceparent ends whose trace is recorded (W3C Trace Context)."""

_DUE = """
SELECT due FROM millstream_lanes WHERE subscription = ? AND partition = ? AND {states} ORDER BY due LIMIT 1
"""
_NEXT_DUE, _NEXT_DUE_OR_GAP = _DUE.format(states="state = 0"), _DUE.format(states="state IN (0, 4)")


class Consumer:
    """Consumes one partition for one subscription, as long as the claim is ours."""

    def __init__(self, c: Consumption, transport: Transport, slots: Slots) -> None:
        self.c = c
        self.parked_wake = Wake(c.clock)
        self._transport = transport
        self._slots = slots
        self._space = Wake(c.clock)
        self._stopping = False
        self._cancelled = False
        self._reading: asyncio.Task[None] | None = None
        self._in_read = False
        self._calls: set[asyncio.Task[Concluded]] = set()
        self._concluded: list[Concluded] = []
        self._parked = 0
        self._refused = False
        self._size = 32
        self._careful = 0
        """Batches that still run with a savepoint per message, because one failed a short while ago."""
        self._span: dict[str, Field] = {
            "service": c.subscription.service,
            "subscription": c.subscription.name,
            "topic": c.subscription.topic,
            "partition": c.claim.partition,
        }
        self.blocked = False

    @property
    def claim(self) -> Claim:
        return self.c.claim

    async def run(self) -> None:
        """Consume until stopped.

        Raises:
            ClaimLost: another worker holds the partition.
        """
        row = await self.c.store.query(
            "SELECT COUNT(*) FROM millstream_parked WHERE subscription = ? AND partition = ?", *self.claim.place
        )
        self._parked = row[0][0]
        self.c.muted_until = await muted_until(self.c.store, *self.claim.place)
        try:
            async with asyncio.TaskGroup() as group:
                self._reading = group.create_task(self._read())
                group.create_task(self._run_parked(group))
        except BaseExceptionGroup as errors:
            lost = errors.subgroup(ClaimLost)
            if lost is not None:
                raise ClaimLost(str(lost.exceptions[0])) from errors
            raise
        finally:
            self._slots.leave(self.parked_wake)
            self.c.solo.wants_no_more(self.parked_wake)

    def stop(self) -> None:
        """Take no new work; `run` returns once the work at hand is finished."""
        self._stopping = True
        self._space.set()
        self.parked_wake.set()
        if self._in_read and self._reading is not None:
            self._reading.cancel()

    def cancel_calls(self) -> None:
        """The deadline of a stop: cancel the calls under way; their starts are given back."""
        self._cancelled = True
        for call in self._calls:
            call.cancel()

    # -- the log ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._stopping:
            reader = self._transport.read(self.c.subscription.topic, self.claim.partition, self.claim.position)
            try:
                await self._read_from(reader)
            except TransportUnavailable as error:
                self.c.instrumentation.log("warning", "log_away", subscription=self._name, error=str(error))
                await self.c.clock.sleep(PAUSE)
            finally:
                await reader.aclose()

    async def _read_from(self, reader: Reader) -> None:
        c = self.c
        limit = c.limits.effect_backlog if c.subscription.effect else c.limits.parked_limit
        while not self._stopping:
            if self._parked >= limit:
                await self._wait_for_space(limit)
                continue
            self._in_read = True
            try:
                records = await reader.next(self._size)
            finally:
                self._in_read = False
            await self._apply(records)

    async def _wait_for_space(self, limit: int) -> None:
        if not self.blocked and not self.c.subscription.effect:
            self.c.instrumentation.log(
                "error",
                "partition_blocked",
                subscription=self._name,
                partition=self.claim.partition,
                parked=self._parked,
                limit=limit,
            )
        self.blocked = True
        await self._space.wait(IDLE)
        self.blocked = self._parked >= limit

    async def _apply(self, records: Sequence[Record]) -> None:
        c = self.c
        await c.pacer.turn()
        await self._run_batch(prepare(records, c.known, c.recorded))
        await self._transport.mark(
            f"{c.subscription.service}/{c.subscription.name}",
            c.subscription.topic,
            self.claim.partition,
            self.claim.position,
        )

    async def _run_batch(self, batch: list[Prepared]) -> None:
        c = self.c
        links = [t for item in batch if (t := item.message.traceparent) is not None and t.endswith(SAMPLED)]
        failed: dict[int, BaseException] = {}
        while True:
            work = partial(run_batch, c=c, batch=batch, failed=failed, savepoints=self._careful > 0)
            try:
                with c.instrumentation.linked_span("millstream.batch", links, **self._span, messages=len(batch)):
                    report = await c.store.transact(work)
            except TakeOut as out:
                if c.store.capabilities.cheap_savepoints:
                    self._careful = CAREFUL_BATCHES
                    continue
                failed[out.index] = out.error
                if len(failed) > TAKE_OUTS:
                    return await self._run_one_by_one(batch)
            except ForeignWait as error:
                # The wait tore the whole transaction (rule T3): only alone it is plain whose it was.
                if len(batch) > 1:
                    return await self._run_one_by_one(batch)
                failed[0] = error
            except StoreUnavailable as error:
                # The store being away pauses the intake and blames no message (rule C5).
                c.instrumentation.log("error", "store_away", subscription=self._name, error=str(error))
                await c.clock.sleep(PAUSE)
            else:
                self._careful = max(0, self._careful - 1)
                return self._applied(batch, report)

    async def _run_one_by_one(self, batch: list[Prepared]) -> None:
        for item in batch:
            await self._run_batch([item])

    def _applied(self, batch: list[Prepared], report: Report) -> None:
        c = self.c
        c.claim.position = batch[-1].position
        c.claim.suspect = max(0, c.claim.suspect - len(batch))
        for metric, amount in report.counts.items():
            c.count(metric, amount)
        c.pacer.used(report.seconds)
        handled = report.counts["millstream_messages_handled_total"]
        c.instrumentation.observe("millstream_batch_seconds", c.labels, report.seconds)
        if handled:
            c.instrumentation.observe("millstream_handler_seconds", c.labels, report.seconds / len(batch), handled)
        if report.parked:
            self._parked += report.parked
            self.parked_wake.set()
        # Grow towards the target, shrink below it at once: handlers differ a thousandfold in what they cost.
        per_message = report.seconds / len(batch)
        fitting = int(c.limits.batch_seconds / per_message) if per_message > 0 else c.limits.batch_messages
        self._size = max(1, min(fitting, self._size * 2, c.limits.batch_messages))

    # -- the store ----------------------------------------------------------------------------------------------

    async def _run_parked(self, group: asyncio.TaskGroup) -> None:
        c = self.c
        marked: list[Started] = []
        while True:
            if self._stopping and not (marked or self._calls or self._concluded):
                return
            if not marked and not self._concluded and not await self._due(self._room(marked)):
                continue
            await c.pacer.turn()
            concluded, self._concluded = self._concluded, []
            room = self._room(marked)
            turn = Turn()
            work = partial(
                run_turn, c=c, turn=turn, marked=marked, concluded=concluded, room=room, wake=self.parked_wake
            )
            try:
                await c.store.transact(work)
            except BaseException as error:  # noqa: BLE001 - places are given back whatever it was; then it is judged
                for alone in turn.entered:
                    c.solo.leave(alone)
                marked = await self._turn_failed(error, marked, concluded)
                continue
            marked = self._turned(turn, group)

    async def _turn_failed(
        self, error: BaseException, marked: list[Started], concluded: list[Concluded]
    ) -> list[Started]:
        """What to run again after a turn that kept nothing; raises what is not for it to judge."""
        match error:
            case ForeignWait():
                marked, outcomes = _blamed(marked, error)
                self._concluded = outcomes + concluded + self._concluded
            case StoreUnavailable():
                self._concluded = concluded + self._concluded
                self.c.instrumentation.log("error", "store_away", subscription=self._name, error=str(error))
                await self.c.clock.sleep(PAUSE)
            case _:
                raise error
        return marked

    async def _due(self, room: int) -> bool:
        """Whether a lane is due now; otherwise wait until one may be."""
        timeout = IDLE
        if self._refused:
            self._refused = False
            timeout = PAUSE
        elif room > 0:
            rows = await self.c.store.query(
                _NEXT_DUE if self.c.subscription.sequence is None else _NEXT_DUE_OR_GAP, *self.claim.place
            )
            if rows:
                timeout = min(IDLE, (rows[0][0] - self.c.clock.now_us()) / 1e6)
                if timeout <= 0:
                    return True
            self._slots.leave(self.parked_wake)
        elif not self._stopping:
            self._slots.stand_in_line(self.parked_wake)
        await self.parked_wake.wait(timeout)
        return False

    def _room(self, marked: list[Started]) -> int:
        if self._stopping:
            return 0
        return self._slots.room(self.parked_wake) if self.c.subscription.effect else self.c.limits.drain_messages

    def _turned(self, turn: Turn, group: asyncio.TaskGroup) -> list[Started]:
        c = self.c
        c.pacer.used(turn.seconds)
        for metric, amount in turn.counts.items():
            c.count(metric, amount)
        self._parked -= turn.gone
        if turn.gone:
            self._space.set()
        if not c.subscription.effect:
            return turn.started
        self._refused = turn.refused
        if not turn.refused:
            c.solo.wants_no_more(self.parked_wake)
        for started in turn.started:
            self._slots.take(self.parked_wake)
            call = group.create_task(run_call(c, started))
            self._calls.add(call)
            call.add_done_callback(lambda done, s=started: self._called(done, s))
            if self._cancelled:
                call.cancel()
        return []

    def _called(self, call: asyncio.Task[Concluded], started: Started) -> None:
        # A cancelled call, even one that never began, gives its start back: neither success nor failure.
        self._concluded.append(Concluded(started, error=GivenBack()) if call.cancelled() else call.result())
        self._calls.discard(call)
        self._slots.give()
        self.c.solo.leave(started.alone)
        self.parked_wake.set()

    @property
    def _name(self) -> str:
        return self.c.subscription.name


def _blamed(marked: list[Started], error: ForeignWait) -> tuple[list[Started], list[Concluded]]:
    """Who is to run again, and what is known, after a handler tore the turn's transaction (rule T3)."""
    if len(marked) <= 1:
        return [], [Concluded(started, error=error) for started in marked]
    return marked[:1], [Concluded(started, error=GivenBack()) for started in marked[1:]]
