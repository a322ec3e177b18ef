"""What happens at the edges of a process: requests that come again, a log that refuses, a store that fills up, an end."""

from __future__ import annotations

import asyncio

from ....delivery.operations import StoreOperations
from ....errors import Refused, Transient
from ....message import Record
from ..node import Gone
from ..simulation import Simulation
from .bank import Transfer
from .clients import Wishes, send
from .event_path import EventPath

__all__ = ["HundredRequests", "RefusedRecord", "Shutdown", "SlowConsumer"]


class HundredRequests(EventPath):
    """A hundred requests at once with one idempotency key, from clients that insist on an answer."""

    name = "hundred-requests"
    about = "100 requests with one idempotency key are one transfer and one answer"
    strikes = ("kill", "kill", "disk", "stop")
    most_strikes = 4
    pause = 0.5

    async def work(self, sim: Simulation) -> None:
        self.wishes = Wishes()
        wish = Transfer("ann", 7, "the wish")
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(send(sim, sim.running("bank"), wish, self.wishes), name=f"client {number}")


class RefusedRecord(EventPath):
    """The log refuses every third record of an account for good, until an operator has raised a limit and frees the key."""

    name = "refused-record"
    about = "records are refused in mid-pipeline; their key waits, the others go on"
    accounts = ("large", "large", "ann", "ben")

    def build(self, sim: Simulation) -> None:
        super().build(sim)
        raised: set[bytes] = set()

        def refuses(topic: str, record: Record) -> str | None:
            if topic != "moves" or record.key != "large" or record.value in raised or sim.healed:
                return None
            if b'"n":3' not in record.value and b'"n":6' not in record.value:
                return None
            if sim.random.random() < 0.3:
                raised.add(record.value)
            return "larger than this log takes"

        sim.refuses = refuses

    async def tend(self, sim: Simulation) -> bool:
        acted = await super().tend(sim)
        bank = sim.nodes["bank"]
        if not bank.ready:
            return acted
        try:
            return await bank.inside(lambda: self._free(sim), "operator") or acted
        except (Gone, Transient):
            return True

    async def _free(self, sim: Simulation) -> bool:
        operations = StoreOperations("bank", sim.nodes["bank"].bound["bank"].store, sim.clock)
        held = (await operations.outbox()).held
        for key in held:
            try:
                await operations.free_key(key.topic, key.key)
            except Refused:
                continue  # freed meanwhile
        return bool(held)


class SlowConsumer(EventPath):
    """The world answers slowly, and few messages may wait in the store: the log is the buffer."""

    name = "slow-consumer"
    about = "a consumer that cannot keep up stops reading, and goes on when there is room"
    accounts = ("flaky", "busy", "ann")

    def build(self, sim: Simulation) -> None:
        sim.limits = sim.limits.__class__(
            lease_seconds=5.0, batch_messages=4, parked_limit=3, effect_backlog=3, drain_messages=2
        )
        super().build(sim)


class Shutdown(EventPath):
    """Processes are asked to stop again and again, at any moment, also while they start."""

    name = "shutdown"
    about = "processes stop in order at any moment, and one that takes too long is a finding"
    strikes = ("stop", "stop", "stop", "kill")
    most_strikes = 12
    pause = 0.7
