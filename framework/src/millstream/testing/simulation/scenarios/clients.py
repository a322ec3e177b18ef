"""Clients of the bank: each wish is sent until somebody answers it, under one idempotency key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..node import Gone, Node
from ..simulation import Simulation
from .bank import Transfer

__all__ = ["Wishes", "transfers"]

AGAIN_SECONDS = 0.4
MOST_TRIES = 400


class Wishes:
    """What clients asked for and were promised: (account, n) by the name of the wish."""

    def __init__(self) -> None:
        self.sent: dict[str, Transfer] = {}
        self.promised: dict[str, tuple[str, int]] = {}


async def transfers(
    sim: Simulation,
    nodes: Sequence[Node],
    accounts: Sequence[str],
    *,
    clients: int = 3,
    each: int = 6,
    gap: float = 0.3,
    remind: bool = True,
) -> Wishes:
    """Let `clients` send `each` transfers to accounts and nodes of their choice; return when all are answered."""
    wishes = Wishes()

    async def client(number: int) -> None:
        for turn in range(each):
            wish = Transfer(
                sim.random.choice(accounts),
                sim.random.randrange(1, 1000),
                f"wish-{number}-{turn}",
                remind and sim.random.random() < 0.25,
            )
            wishes.sent[wish.request] = wish
            await send(sim, nodes, wish, wishes)
            await sim.sleep(0.0, gap)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number), name=f"client {number}")
    return wishes


async def send(sim: Simulation, nodes: Sequence[Node], wish: Transfer, wishes: Wishes) -> None:
    """Until one of the nodes answers it."""
    for _ in range(MOST_TRIES):
        try:
            answer = await sim.random.choice(nodes).request("POST", "/transfers", wish, wish.request)
        except Gone:
            await sim.sleep(0.0, AGAIN_SECONDS)
            continue
        if answer.status < 300:
            found = answer.json()
            promised = (found["account"], found["n"])
            if wishes.promised.setdefault(wish.request, promised) != promised:
                sim.violated(f"{wish.request}: answered {wishes.promised[wish.request]} and {promised}")
            return
        if answer.status < 500 and answer.status not in (409, 425, 429):
            sim.violated(f"{wish.request}: answered {answer.status} {answer.body.decode(errors='replace')}")
            return
        await sim.sleep(0.0, AGAIN_SECONDS)
    sim.violated(f"{wish.request}: nobody answered {MOST_TRIES} tries")
