"""orders_accept: how many `POST /orders` a second are answered with 201, each durable, over 32 connections.

A real `millstream up` in a process of its own; the client is the one of `millstream load`, in another, on the same two
cores. Orders are real baskets without a payment method: the whole of what is measured is accepting them (token, body,
idempotency key, rows, event, commit), not what follows; orders_whole_path measures that too. The ceiling writes the
rows that accepting left in the file of the orders service.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from millstream.cli.load.connection import Address
from millstream.cli.load.posting import Posting, post_all
from millstream.cli.load.verdict import percentile

from .baskets import BASKETS, acceptable, unpaid_orders
from .figures import Figure, Goal
from .replay import replay_seconds
from .system import running_system

__all__ = ["measure"]

CONNECTIONS = 32
STORE = "orders"
WARM_UP = 1_000
PATIENCE_SECONDS = 60.0


def measure(folder: Path, orders: int = 15_000, runs: int = 3, baskets: Path = BASKETS) -> list[Figure]:
    """Orders/s and p99, each the median of several runs."""
    found = [run_once(folder / str(number), orders, baskets) for number in range(runs)]
    details = {"orders": orders, "connections": CONNECTIONS, "runs": found}
    rate, ceiling, p99 = (median(run[name] for run in found) for name in ("orders_per_s", "ceiling", "p99_ms"))
    return [
        Figure("orders_accept", rate, "orders/s", ceiling, Goal(at_least=3_000), details),
        Figure("orders_accept_p99", p99, "ms", None, Goal(at_most=40.0), lower_is_better=True),
    ]


def run_once(folder: Path, orders: int, baskets: Path) -> dict[str, Any]:
    """One run on a new folder.

    Raises:
        AssertionError: an order was not accepted.
    """
    folder.mkdir()
    with running_system(folder / "var") as system:
        address, token = Address.of(system.url), system.token("bench")
        requests = unpaid_orders(address, token, acceptable(baskets, orders + WARM_UP))
        before = system.commits().get(STORE, 0)
        uvloop.run(_post(address, requests[:WARM_UP]))
        cpu = system.cpu_seconds()
        posting = uvloop.run(_post(address, requests[WARM_UP:]))
        cpu = system.cpu_seconds() - cpu
        commits = system.commits().get(STORE, 0) - before
    assert len(posting.accepted) == orders, f"{len(posting.accepted)} of {orders} orders were accepted"
    bare = replay_seconds(folder / "var", {STORE: commits}, folder / "bare")
    return {
        "orders_per_s": orders / posting.seconds,
        "p50_ms": percentile(posting, 0.50),
        "p99_ms": percentile(posting, 0.99),
        "server_cpu_us_per_order": cpu / orders * 1e6,
        "commits": commits,
        "repeats": posting.repeats,
        "ceiling": (orders + WARM_UP) / bare,
    }


async def _post(address: Address, requests: list[bytes]) -> Posting:
    return await post_all(address, requests, CONNECTIONS, None, PATIENCE_SECONDS, _NoBar())


class _NoBar:
    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None: ...
