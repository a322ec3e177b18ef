"""The service and the scenario of docs/guide/simulation.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import msgspec
from millstream import Call, Event, Service, Tx
from millstream.service.context import ServiceContext
from millstream.testing.simulation.campaign import seeds
from millstream.testing.simulation.node import Gone
from millstream.testing.simulation.scenario import Scenario
from millstream.testing.simulation.simulation import Simulation


class Ordered(Event, topic="orders", key="order", version=1):
    order: str


class NewOrder(msgspec.Struct):
    order: str


class Mailer:
    """The outside world: it outlives every process."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.known: set[str] = set()

    def send(self, order: str) -> None:
        self.sent[order] += 1

    def send_once(self, order: str, idempotency_key: str) -> None:
        if idempotency_key not in self.known:
            self.known.add(idempotency_key)
            self.send(order)


def shop(careful: bool) -> Service:
    service = Service("shop")
    service.emits(Ordered)

    @service.resource(Mailer)
    async def mailer(context: ServiceContext) -> AsyncIterator[Mailer]:
        yield context.settings["mailer"]

    @service.post("/orders", idempotent=True)
    async def order(body: NewOrder, tx: Tx) -> None:
        tx.publish(Ordered(body.order))

    if careful:

        @service.effect(Ordered, name="confirm")
        async def confirm(event: Ordered, call: Call, mailer: Mailer) -> None:
            mailer.send_once(event.order, call.idempotency_key)

    else:

        @service.on(Ordered, name="confirm")
        async def confirm_at_once(event: Ordered, tx: Tx, mailer: Mailer) -> None:
            mailer.send(event.order)

    return service


class Confirmations(Scenario):
    name = "confirmations"
    about = "every order is confirmed once"
    careful = False
    strikes = ("kill",)
    most_strikes = 8
    pause = 0.5

    def build(self, sim: Simulation) -> None:
        self.mailer = sim.settings["mailer"] = Mailer()
        sim.node("shop", shop(self.careful))

    async def work(self, sim: Simulation) -> None:
        for number in range(10):
            while True:  # as a client does that wants an answer
                try:
                    await sim.nodes["shop"].request("POST", "/orders", NewOrder(f"order {number}"), f"key {number}")
                    break
                except Gone:
                    await sim.sleep(0.1, 0.5)

    async def check(self, sim: Simulation) -> None:
        for number in range(10):
            times = self.mailer.sent[f"order {number}"]
            if times != 1:
                sim.violated(f"order {number} was confirmed {times} times")


class CarefulConfirmations(Confirmations):
    careful = True


def test_every_order_is_confirmed_once() -> None:
    for outcome in seeds(Confirmations, range(100)):
        assert outcome.violations == [], f"seed {outcome.seed}"
