"""Customers who order at a steady rate, and repeat a request with its key until it has a final reply, whatever happens
to the server meanwhile; and the judgement of `millstream load` over what they were promised.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from array import array
from itertools import count

from millstream.cli.load.baskets import Basket, Line, parse_mix
from millstream.cli.load.books import read_books
from millstream.cli.load.pool import Lane, lanes
from millstream.cli.load.posting import Accepted, Posting, Refused, build_requests, outcome_of
from millstream.cli.load.settling import Reader, settle
from millstream.cli.load.verdict import Verdict, judge
from millstream.cli.output import progress
from running import Up

__all__ = ["Customers", "baskets_of"]

CONNECTIONS = 16
PATIENCE = 30.0
MIX = "sim_ok=8,sim_declined=1,sim_error_then_ok=1,sim_timeout=1,sim_twice=1"


def baskets_of(number: int, seed: int = 1) -> list[Basket]:
    """Baskets that add up."""
    dice = random.Random(seed)
    found: list[Basket] = []
    for n in range(number):
        lines = tuple(Line(f"p{dice.randrange(1000)}", dice.randint(1, 5), dice.randint(1, 9999)) for _ in range(3))
        found.append(Basket(f"b{n}", f"c{n % 50}", "USD", lines, sum(line.amount for line in lines)))
    return found


class Customers:
    """Orders from a thread with a loop of its own, from `begin` until `finish`."""

    def __init__(self, up: Up, rate: float, most: int) -> None:
        self.up = up
        self.rate = rate
        self.baskets = baskets_of(most)
        self.sent = 0
        self.posting = Posting([], array("d"))
        self.repeats = 0
        self._enough = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="customers")

    def begin(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Send no new order; return once each that was sent has its final reply."""
        self._enough.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def verdict(self) -> Verdict:
        """Wait until all is settled, read everything back, judge."""
        return asyncio.run(self._judge())

    def _run(self) -> None:
        try:
            asyncio.run(self._post())
        except BaseException as error:  # noqa: BLE001 - raised again in `finish`
            self._failure = error

    async def _post(self) -> None:
        address = self.up.address
        requests = build_requests(address, self.up.token("shop"), self.baskets, parse_mix(MIX), "crash")
        outcomes: dict[int, Accepted | Refused | None] = {}
        numbers = count()
        began = time.perf_counter()

        async def customer(lane: Lane) -> None:
            while not self._enough.is_set() and (number := next(numbers)) < len(requests):
                await asyncio.sleep(max(0.0, began + number / self.rate - time.perf_counter()))
                self.sent += 1
                outcomes[number] = outcome_of(await lane.send(requests[number]))

        async with lanes(address, CONNECTIONS, PATIENCE) as opened, asyncio.TaskGroup() as group:
            for lane in opened:
                group.create_task(customer(lane))
        self.repeats = sum(lane.repeats for lane in opened)
        self.posting = Posting([outcomes[n] for n in sorted(outcomes)], array("d", [0.0] * len(outcomes)), 1.0)
        self.baskets = [self.baskets[n] for n in sorted(outcomes)]

    async def _judge(self) -> Verdict:
        address = self.up.address
        client = Reader(address, self.up.token("shop"))
        operator = Reader(address, self.up.token("operator", "operator"))
        ids = list(self.posting.accepted)
        with progress("settle", len(ids)) as bar:
            orders = await settle(client, address, ids, CONNECTIONS, PATIENCE, bar)
        return judge(self.baskets, self.posting, orders, await read_books(address, client, operator, len(ids)))
