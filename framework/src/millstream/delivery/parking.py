"""The one path for everything that does not run in a batch: retries, redriven letters, effects, and messages that an
unclean holder may have died of (rules C4, C5, C11, F1 to F4).

Each turn is one transaction of the claim: conclude what ran, then mark what starts next. A marked message runs after
that commit, so that a message that kills its process is known by its starts. Effects run as calls between two turns;
handlers run inside the next turn, in the transaction that records their outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import ClaimLost
from ..ports.store import Row, Session
from ..ports.wake import Wake
from ..resilience.breaker import BreakerOpen
from . import claims, dead_letters, lanes
from .consumption import Consumption
from .dead_letters import HOLDS, NO_LANE, WENT_ON
from .lanes import GAP, RUNNING, UNKNOWN, WAITING
from .outbox import Outbox
from .prepared import Prepared, prepare_one
from .sequences import Sequences
from .tx import Tx, publish_returned
from .verdict import describe, verdict_of

__all__ = ["Concluded", "GivenBack", "Started", "Turn", "run_turn"]

_DUE = """
SELECT tenant, key, state FROM millstream_lanes
WHERE subscription = ? AND partition = ? AND {states} AND due <= ? ORDER BY due LIMIT ?
"""
_DUE_LANES, _DUE_OR_EXPIRED = _DUE.format(states="state = 0"), _DUE.format(states="state IN (0, 4)")
_ROW = "subscription = ? AND partition = ? AND tenant = ? AND key = ? AND layout = ? AND position = ?"


class Started(msgspec.Struct, eq=False):
    """A parked message whose start is committed."""

    item: Prepared
    layout: int
    attempts: int
    starts: int
    since: int
    fence: int = 0
    alone: bool = False
    """An effect's last start: no other call is under way meanwhile."""


class GivenBack(Exception):
    """The call was interrupted by a shutdown or a lost claim: its start does not count (rule C5)."""


class Concluded(msgspec.Struct, eq=False):
    """What a call of an effect ended in: what it returned, or its error."""

    started: Started
    returned: Any = None
    error: BaseException | None = None


class Turn:
    """What one turn did."""

    __slots__ = ("counts", "entered", "gone", "refused", "seconds", "started")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As before it ran."""
        self.started: list[Started] = []
        self.counts: Counter[str] = Counter()
        self.gone = 0
        """Messages that are parked no longer."""
        self.seconds = 0.0
        """Time on the event loop."""
        self.entered: list[bool] = []
        """Places taken in `Solo`, given back by whoever runs the turn if it is not committed."""
        self.refused = False
        """A message has to wait until it may run alone, or until another one has."""


async def run_turn(
    session: Session,
    c: Consumption,
    turn: Turn,
    marked: Sequence[Started],
    concluded: Sequence[Concluded],
    room: int,
    wake: Wake,
) -> Turn:
    """One transaction: run `marked` handlers, record `concluded` calls, start up to `room` messages, into `turn`.
    `wake` is set when messages that had to wait for a place of their own may try again.

    Raises:
        ClaimLost: another worker holds the partition; nothing may be kept.
    """
    for alone in turn.entered:  # the store ran this work before, and undid it
        c.solo.leave(alone)
    turn.reset()
    return await _Turn(session, c, turn, wake).run(marked, concluded, room)


class _Turn:
    def __init__(self, session: Session, c: Consumption, turn: Turn, wake: Wake) -> None:
        self.session = session
        self.wake = wake
        self.c = c
        self.now_us = c.clock.now_us()
        self.outbox = Outbox(c.origin)
        self.tx = Tx(session, self.outbox, self.now_us)
        self.turn = turn
        sequence = c.subscription.sequence
        self.sequences = None if sequence is None else Sequences(session, c.claim, sequence)

    async def run(self, marked: Sequence[Started], concluded: Sequence[Concluded], room: int) -> Turn:
        began = self.c.clock.monotonic()
        await claims.touch(self.session, self.c.claim)
        await self._run_marked(marked)
        for call in concluded:
            await self._conclude(call.started, call.returned, call.error)
        if room > 0:
            await self._start(room)
        if self.sequences is not None:
            await self.sequences.flush(self.now_us)
        await self.outbox.flush(self.session)
        self.turn.seconds = self.c.clock.monotonic() - began
        return self.turn

    # -- outcomes -----------------------------------------------------------------------------------------------

    async def _run_marked(self, marked: Sequence[Started]) -> None:
        stopped: set[tuple[str, str]] = set()
        for started in marked:
            item = started.item
            if (item.tenant, item.key) in stopped:
                await self._give_back(started)  # its turn comes after the one before it has succeeded
            elif not await self._conclude(started, None, None):
                stopped.add((item.tenant, item.key))

    async def _conclude(self, started: Started, returned: Any, error: BaseException | None) -> bool:
        """Record the outcome of one message; True if its lane may go on at once."""
        c, session, item = self.c, self.session, started.item
        if isinstance(error, GivenBack | BreakerOpen):
            await self._give_back(started)
            if isinstance(error, BreakerOpen):
                later = self.now_us + round(error.retry_after * 1e6)
                await lanes.set_lane(session, c.claim, item.tenant, item.key, WAITING, later)
            return False
        mark = self.outbox.mark()
        await session.savepoint()
        try:
            await self._remove(started)
            if error is not None:
                raise error
            self.tx._cause = item.message  # pyright: ignore[reportPrivateUsage] - one Tx serves the turn; the kernel owns it
            if not c.subscription.effect:
                event = [item.event] if c.subscription.batched else item.event
                with c.instrumentation.span(
                    "millstream.parked",
                    item.message.traceparent,
                    service=c.subscription.service,
                    subscription=c.subscription.name,
                    message_id=item.message.id,
                    event_type=item.message.type,
                    attempt=started.attempts + 1,
                ):
                    returned = await c.subscription.handle(event, self.tx)
            publish_returned(self.tx, returned)
            await session.flush()
            if item.position <= c.muted_until:
                self.outbox.cut(mark)
        except BaseException as caught:  # noqa: BLE001 - the one place that turns a handler's error into an outcome
            attempt = started.attempts + 1
            verdict = verdict_of(caught, attempt, c.subscription.retry.attempts)
            await session.rollback()
            self.outbox.cut(mark)
            return await self._failed(started, caught, attempt, verdict)
        await session.release()
        self.turn.gone += 1
        self.turn.counts["millstream_messages_handled_total"] += 1
        await lanes.close_or_continue(session, c.claim, item.tenant, item.key, self.now_us)
        return True

    async def _failed(self, started: Started, error: BaseException, attempt: int, verdict: str) -> bool:
        c, item = self.c, started.item
        if verdict == "retry":
            delay = c.subscription.retry.delay(attempt, c.entropy.random())
            await self.session.execute(
                f"UPDATE millstream_parked SET attempts = ?, starts = 0, error = ? WHERE {_ROW}",  # noqa: S608 - a constant
                attempt,
                describe(error),
                *self._place(started),
            )
            await lanes.set_lane(
                self.session, c.claim, item.tenant, item.key, WAITING, self.now_us + round(delay * 1e6)
            )
            self.turn.counts["millstream_messages_retried_total"] += 1
            return False
        await self._remove(started)
        self.turn.gone += 1
        if verdict == "drop":
            self.turn.counts["millstream_messages_dropped_total"] += 1
            await lanes.close_or_continue(self.session, c.claim, item.tenant, item.key, self.now_us)
            return True
        return await self._bury(started, "failed", describe(error), attempt)

    async def _bury(self, started: Started, reason: str, error: str, attempts: int, lane: bool = True) -> bool:
        c, item = self.c, started.item
        holds = lane and c.subscription.after_dead_letter == "hold"
        await dead_letters.bury(
            self.session,
            c.claim,
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
        self.turn.counts["millstream_dead_letters_total"] += 1
        c.instrumentation.log(
            "error",
            "dead_letter",
            subscription=c.subscription.name,
            lane=item.key,
            message_id=item.message.id,
            reason=reason,
            error=error,
        )
        if holds:
            await lanes.hold(self.session, c.claim, item.tenant, item.key, self.now_us)
            return False
        await lanes.close_or_continue(self.session, c.claim, item.tenant, item.key, self.now_us)
        return True

    async def _give_back(self, started: Started) -> None:
        await self.session.execute(
            f"UPDATE millstream_parked SET starts = starts - 1 WHERE {_ROW} AND starts = ?",  # noqa: S608 - a constant
            *self._place(started),
            started.starts,
        )
        # A lane whose earlier message was just parked for a retry or buried keeps the state that gave it.
        await self.session.execute(
            "UPDATE millstream_lanes SET state = ? "
            "WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? AND state = ?",
            WAITING,
            *self.c.claim.place,
            started.item.tenant,
            started.item.key,
            RUNNING,
        )

    async def _remove(self, started: Started) -> None:
        """Take the message out, if it is still the start that ran (rule C4)."""
        gone = await self.session.execute(
            f"DELETE FROM millstream_parked WHERE {_ROW} AND starts = ?",  # noqa: S608 - a constant
            *self._place(started),
            started.starts,
        )
        if gone != 1:
            raise ClaimLost(f"parked message {started.item.message.id} was started again by somebody else")

    def _place(self, started: Started) -> tuple[int, int, str, str, int, int]:
        return (*self.c.claim.place, started.item.tenant, started.item.key, started.layout, started.item.position)

    # -- starts -------------------------------------------------------------------------------------------------

    async def _start(self, room: int) -> None:
        c, session = self.c, self.session
        sql = _DUE_LANES if self.sequences is None else _DUE_OR_EXPIRED
        for tenant, key, state in await session.fetch(sql, *c.claim.place, self.now_us, room):
            if len(self.turn.started) >= room:
                break
            left = 1 if c.subscription.effect else room - len(self.turn.started)
            rows = await session.fetch(
                "SELECT layout, position, value, attempts, starts, since FROM millstream_parked "
                "WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? ORDER BY layout, position LIMIT ?",
                *c.claim.place,
                tenant,
                key,
                left,
            )
            if not await self._start_lane(tenant, key, rows, state == GAP):
                break
        if self.turn.started:
            fence = await claims.touch(session, c.claim, len(self.turn.started))
            for offset, started in enumerate(reversed(self.turn.started)):
                started.fence = fence - offset

    async def _start_lane(self, tenant: str, key: str, rows: list[Row], expired: bool) -> bool:
        """Mark the head of a lane, and the untried messages behind an untried head; False when the turn is full.

        `expired`: it waited for a missing number long enough (rule F3).
        """
        c = self.c
        if not rows:
            await lanes.close_or_continue(self.session, c.claim, tenant, key, self.now_us)
            return True
        began = len(self.turn.started)
        for layout, position, value, attempts, starts, since in rows:
            item = prepare_one(value, position, c.known, c.recorded)
            started = Started(item, layout, attempts, starts, since)
            # The envelope of an edited or undecodable message may name another key: the lane is where it stands.
            item.tenant, item.key, item.layout = tenant, key, layout
            first = len(self.turn.started) == began
            if not first and (attempts or starts or item.fate != "run"):
                break  # only untried messages run along with an untried head
            if starts and self.turn.started:
                return False  # it may kill the process: it runs alone, in a turn of its own
            if self.sequences is not None and not await self._in_order(self.sequences, started, first, expired):
                break
            if not await self._startable(started):
                break
            if c.subscription.effect and not self._enter(started):
                return False
            started.starts = starts + 1
            await self.session.execute(
                f"UPDATE millstream_parked SET starts = ? WHERE {_ROW}",  # noqa: S608 - a constant
                started.starts,
                *self._place(started),
            )
            self.turn.started.append(started)
            if starts or attempts:
                break
        if len(self.turn.started) > began:
            await lanes.set_lane(self.session, c.claim, tenant, key, RUNNING, self.now_us)
            if self.turn.started[began].starts > 1:
                return False
        return True

    def _enter(self, started: Started) -> bool:
        """Take a place among the process's calls; a message on its last start takes the only one."""
        started.alone = started.starts + 1 >= self.c.limits.crash_starts > 1
        if not self.c.solo.enter(started.alone, self.wake):
            self.turn.refused = True
            return False
        self.turn.entered.append(started.alone)
        return True

    async def _startable(self, started: Started) -> bool:
        """Whether a head may run; if not, it has been put where it belongs."""
        c, item = self.c, started.item
        if started.starts >= c.limits.crash_starts:
            await self._take_away(started, "crashed", f"the process ended {started.starts} times while running it")
            return False
        if item.fate == "unknown":
            await lanes.set_lane(self.session, c.claim, item.tenant, item.key, UNKNOWN, self.now_us)
            return False
        if item.fate == "undecodable":
            await self._take_away(started, "undecodable", item.error)
            return False
        if item.fate == "skip":
            await self._remove(started)
            self.turn.gone += 1
            self.turn.counts["millstream_messages_skipped_total"] += 1
            await lanes.close_or_continue(self.session, c.claim, item.tenant, item.key, self.now_us)
            return False
        return True

    async def _in_order(self, sequences: Sequences, started: Started, first: bool, expired: bool) -> bool:
        """Whether a numbered message is next; if the head of a lane is not, it is put where it belongs (rule F3)."""
        c, item = self.c, started.item
        sequence = c.subscription.sequence
        assert sequence is not None
        order = await sequences.judge_parked(item, first and expired)
        if order == "next" or not first:
            return order == "next"
        if order == "early":
            due = self.now_us + round(sequence.gap * 1e6)
            await lanes.set_lane(self.session, c.claim, item.tenant, item.key, GAP, due)
        elif order == "misplaced":
            await self.session.execute(
                f"UPDATE millstream_parked SET layout = ? WHERE {_ROW}",  # noqa: S608 - a constant
                item.layout,
                *self._place(started),
            )
            await lanes.set_lane(self.session, c.claim, item.tenant, item.key, WAITING, self.now_us)
        else:
            error = item.error or f"no number to be read in field {sequence.field!r}"
            await self._take_away(started, "undecodable", error, False)
        return False

    async def _take_away(self, started: Started, reason: str, error: str, lane: bool = True) -> None:
        await self._remove(started)
        self.turn.gone += 1
        await self._bury(started, reason, error, started.attempts, lane)
