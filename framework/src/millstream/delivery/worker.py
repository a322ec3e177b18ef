"""One service's share of the work in one process: takes its claims, runs what they stand for, gives them back.

The worker gives a sign of life each third of a lease or more often, takes what belongs to it by the division of rule C10, and
releases what does not any more, after the running transaction. What a claim runs is supervised: an error that nobody
expected is logged, the claim is released, and taken again after a growing pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import cast

import msgspec

from ..clock import Clock
from ..errors import ClaimLost, StoreUnavailable
from ..ids import Entropy, Ids
from ..ports.instrumentation import Instrumentation
from ..ports.store import Presence, Session, Store
from ..ports.transport import Transport
from ..ports.wake import Wake
from . import claims
from .claims import RELAY, Claim, Division
from .consumer import Consumer
from .consumption import Consumption, Limits
from .dead_letters import LANES_CHANNEL
from .departures import SIGN_SECONDS, Departures
from .effects import Slots
from .housekeeping import Housekeeper, Retention
from .outbox import Origin
from .pacing import Pacer
from .registration import Registered
from .relay import Relay
from .replay import registration_of
from .solo import Solo
from .supervision import RESTART, Part, Supervised
from .timers import ScheduleRunner, Ticking, TimerMover

__all__ = ["Engines", "Worker"]


class Engines(msgspec.Struct, frozen=True, eq=False):
    """What a worker works with."""

    store: Store
    transport: Transport
    clock: Clock
    entropy: Entropy
    ids: Ids
    instrumentation: Instrumentation
    pacer: Pacer
    solo: Solo
    limits: Limits = Limits()
    relay_shards: int = 1


class Worker:
    """Runs the subscriptions, schedules and relay shards of one service."""

    def __init__(
        self,
        service: str,
        subscriptions: Sequence[Registered],
        schedules: Sequence[Ticking],
        engines: Engines,
        name: str,
        intakes: Sequence[Supervised] = (),
    ) -> None:
        self.service = service
        self.name = name
        self._e = engines
        self._registered = {r.id: r for r in subscriptions}
        self._slots = {r.id: Slots(r.subscription.concurrency) for r in subscriptions}
        self._beside = [
            *intakes,
            *(
                Supervised(
                    ScheduleRunner(
                        t,
                        engines.store,
                        Origin(f"/{service}", engines.ids),
                        clock=engines.clock,
                        instrumentation=engines.instrumentation,
                    ),
                    f"schedule {service}/{t.name}",
                    clock=engines.clock,
                    entropy=engines.entropy,
                    instrumentation=engines.instrumentation,
                    labels=(("service", service),),
                )
                for t in schedules
            ),
        ]
        """What runs beside the claims and stops when consuming stops."""
        self._wake = Wake(engines.clock)
        self._held: dict[tuple[int, int], _Held] = {}
        self._failures: dict[tuple[int, int], int] = {}
        self._not_before: dict[tuple[int, int], float] = {}
        self._beside_tasks: list[asyncio.Task[None]] = []
        self._taking = True
        self._relaying = True
        self._done = False
        self.ready = False
        """Set once the worker has looked at all claims for the first time."""

    async def run(self) -> None:
        """Work until `stop` has finished."""
        sign_seconds = self._e.limits.lease_seconds / 3
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(self._watch_lanes())]
            if isinstance(presence := self._e.store, Presence):
                sign_seconds = min(sign_seconds, SIGN_SECONDS)
                watching.append(group.create_task(self._watch_workers(presence)))
            self._beside_tasks = [group.create_task(part.run()) for part in self._beside]
            while not self._done:
                try:
                    await self._look(group)
                    self.ready = True
                except StoreUnavailable as error:
                    self._e.instrumentation.log("error", "worker_store_away", service=self.service, error=str(error))
                await self._wake.wait(sign_seconds)
            for task in watching:
                task.cancel()
        await self._leave()

    async def stop_consuming(self, deadline: float) -> None:
        """Take nothing new, finish what runs; after `deadline` seconds cancel calls and give their starts back."""
        self._taking = False
        for part in self._beside:
            part.stop()
        consumers = [held for held in self._held.values() if held.consumer is not None]
        for held in consumers:
            held.stop()
        tasks = {held.task for held in consumers} | set(self._beside_tasks)
        timer = self._e.clock.call_later(deadline, lambda: [h.cancel_calls() for h in consumers])
        await _settled(tasks)
        timer.cancel()

    async def stop(self) -> None:
        """Let the relay finish what it has in hand, release all claims, end `run`. Call after `stop_consuming`."""
        self._taking = self._relaying = False
        for held in self._held.values():
            held.stop()
        await _settled({held.task for held in self._held.values()})
        self._done = True
        self._wake.set()

    async def _leave(self) -> None:
        """Take the sign of life back, behind the last one that `run` gave: until it expires it takes its share of claims."""

        async def leave(session: Session) -> None:
            await session.execute("DELETE FROM millstream_workers WHERE id = ?", self.name)

        try:
            await self._e.store.transact(leave)
        except StoreUnavailable as error:
            self._e.instrumentation.log("warning", "worker_left_unseen", service=self.service, error=str(error))

    # -- claims -------------------------------------------------------------------------------------------------

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Give a sign of life, take what is ours, let go of what is not."""
        lease_us = self._e.limits.lease_us

        async def work(session: Session) -> Division:
            await claims.renew(session, self.name, lease_us)
            return await claims.divide(session, self.name, lease_us)

        division = await self._e.store.transact(work)
        for place, held in list(self._held.items()):
            # Where the epoch is another one, its next transaction would fail anyhow.
            if division.held.get(place) != held.claim.epoch or place in division.surplus:
                held.stop()
        for place, epoch in division.held.items():
            if place not in self._held:
                await self._let_go(place, epoch)
        if any(place[0] != RELAY and place[0] not in self._registered for place in division.wanted):
            await self._register_again()
        now = self._e.clock.monotonic()
        for place in division.wanted:
            known = place[0] == RELAY or place[0] in self._registered
            if self._runs(place) and known and place not in self._held and self._not_before.get(place, 0.0) <= now:
                await self._take(group, place)

    async def _let_go(self, place: tuple[int, int], epoch: int) -> None:
        """Release what is held in our name and not worked on: the store was away when it was to be released, or when it was
        taken. Our signs of life would keep it for ever, and nobody would run it."""
        claim = Claim(*place, epoch, 0, 0, self._e.limits.lease_us)
        await self._e.store.transact(lambda session: claims.release(session, claim))
        self._wake.set()

    def _runs(self, place: tuple[int, int]) -> bool:
        """Whether a claim of this kind is to be worked on; not any more once the worker stops."""
        return self._taking if place[0] != RELAY else self._relaying

    async def _register_again(self) -> None:
        """A replay gave a subscription a new id (rule F5); claims of names that nobody declares here stay free."""
        for former in list(self._registered.values()):
            known = await self._e.store.transact(partial(registration_of, subscription=former.subscription))
            if known.id != former.id:
                self._registered[known.id] = known
                self._slots[known.id] = self._slots[former.id]

    async def _take(self, group: asyncio.TaskGroup, place: tuple[int, int]) -> None:
        limits = self._e.limits
        claim = await self._e.store.transact(
            lambda session: claims.take(session, *place, self.name, limits.lease_us, limits.batch_messages)
        )
        if claim is None:
            return
        held = self._runner(claim)
        self._held[place] = held
        self._e.instrumentation.count("millstream_claims_taken_total", (("service", self.service),))
        held.task = group.create_task(self._supervise(place, held))
        if not self._runs(place):
            held.stop()  # a stop that came while the claim was being taken could not see it

    def _runner(self, claim: Claim) -> _Held:
        e = self._e
        if claim.subscription == RELAY:
            relay = Relay(
                e.store,
                e.transport,
                clock=e.clock,
                entropy=e.entropy,
                instrumentation=e.instrumentation,
                service=self.service,
                shard=claim.partition,
                shards=e.relay_shards,
            )
            parts: list[Part] = [relay]
            if claim.partition == 0:
                parts.append(TimerMover(e.store, clock=e.clock, instrumentation=e.instrumentation))
                retention = Retention(inbox_seconds=e.limits.inbox_retention_seconds)
                parts.append(
                    Housekeeper(e.store, clock=e.clock, instrumentation=e.instrumentation, retention=retention)
                )
            return _Held(claim, parts, None)
        registered = self._registered[claim.subscription]
        subscription = registered.subscription
        consumption = Consumption(
            subscription=subscription,
            claim=claim,
            generation=registered.generation,
            known={event.name: event for event in subscription.events},
            recorded=registered.recorded,
            store=e.store,
            origin=Origin(f"/{self.service}", e.ids, subscription.name, registered.generation),
            clock=e.clock,
            entropy=e.entropy,
            instrumentation=e.instrumentation,
            limits=e.limits,
            labels=(("service", self.service), ("subscription", subscription.name)),
            pacer=e.pacer,
            solo=e.solo,
        )
        consumer = Consumer(consumption, e.transport, self._slots[claim.subscription])
        return _Held(claim, [consumer], consumer)

    async def _supervise(self, place: tuple[int, int], held: _Held) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in held.parts:
                    group.create_task(part.run())
            self._failures.pop(place, None)
        except BaseExceptionGroup as errors:
            if errors.split(Exception)[1] is not None:
                raise
            if errors.subgroup(ClaimLost) is not None:
                self._e.instrumentation.count("millstream_claims_lost_total", (("service", self.service),))
            else:
                self._failed(place, errors)
        finally:
            self._held.pop(place, None)
            self._wake.set()
        try:
            await self._e.store.transact(lambda session: claims.release(session, held.claim))
        except StoreUnavailable as error:
            self._e.instrumentation.log("warning", "claim_not_released", service=self.service, error=str(error))

    def _failed(self, place: tuple[int, int], errors: BaseExceptionGroup[BaseException]) -> None:
        failures = self._failures[place] = self._failures.get(place, 0) + 1
        pause = RESTART.delay(failures, self._e.entropy.random())
        self._not_before[place] = self._e.clock.monotonic() + pause
        self._e.clock.call_later(pause, self._wake.set)
        first = _first(errors)
        self._e.instrumentation.count("millstream_task_restarts_total", (("service", self.service),))
        self._e.instrumentation.log(
            "error",
            "claim_failed",
            service=self.service,
            subscription=place[0],
            partition=place[1],
            error=f"{type(first).__name__}: {first}",
            pause_s=pause,
        )

    async def _watch_workers(self, presence: Presence) -> None:
        """Show that this worker is there, and notice others that are not any more."""
        e = self._e
        with suppress(StoreUnavailable):  # then it is shown when the connection is back
            await presence.present(self.name)
        departures = Departures(e.store, presence, self.name, clock=e.clock, instrumentation=e.instrumentation)
        await departures.watch(self._wake.set)

    async def _watch_lanes(self) -> None:
        """An operator made lanes due: every consumer looks at its own."""
        signal = self._e.store.listen(LANES_CHANNEL)
        try:
            while True:
                if await signal.wait(60.0):
                    for held in self._held.values():
                        if held.consumer is not None:
                            held.consumer.parked_wake.set()
        finally:
            signal.close()


class _Held:
    """A claim and what runs under it."""

    def __init__(self, claim: Claim, parts: Sequence[Part], consumer: Consumer | None) -> None:
        self.claim = claim
        self.parts = parts
        self.consumer = consumer
        self.task: asyncio.Task[None]

    def stop(self) -> None:
        for part in self.parts:
            part.stop()

    def cancel_calls(self) -> None:
        if self.consumer is not None:
            self.consumer.cancel_calls()


async def _settled(tasks: set[asyncio.Task[None]]) -> None:
    """Return when all tasks have ended; their errors belong to their own group."""
    if tasks:
        await asyncio.wait(tasks)


def _first(error: BaseException) -> BaseException:
    """The first error inside nested groups: what a person wants to read."""
    if isinstance(error, BaseExceptionGroup):
        return _first(cast(BaseExceptionGroup[BaseException], error).exceptions[0])
    return error
