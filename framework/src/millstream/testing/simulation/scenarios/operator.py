"""The operator of the till: repairs, redrives and drops, through the operations of the product."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ....delivery.operations import StoreOperations
from ....delivery.operations_api import DeadLetterFilter
from ....errors import Refused, Transient
from ....ports.store import Session
from ..node import Gone, Node
from ..simulation import Simulation
from .bank import POISON
from .invariants import Fact

__all__ = ["look_after"]


async def look_after(sim: Simulation, nodes: Sequence[Node], seen: set[Fact], repairs: float = 1.0) -> bool:
    """Decide about every dead letter of the till; False when there was none. seen: receives whose they were. repairs: the
    chance that one is repaired before it is redriven, instead of failing once more."""
    node = next((node for node in nodes if node.ready), None)
    if node is None:
        return False
    try:
        return await node.inside(lambda: _decide(sim, node, seen, repairs), "operator")
    except (Gone, Transient):
        return True


async def _decide(sim: Simulation, node: Node, seen: set[Fact], repairs: float) -> bool:
    store = node.bound["till"].store
    operations = StoreOperations("till", store, sim.clock, ["tell"])
    letters = await operations.dead_letters(DeadLetterFilter())
    for letter in letters:
        found = await operations.dead_letter(letter.id)
        if found is None:
            continue
        data = msgspec.json.decode(found.message)["data"]
        chosen = DeadLetterFilter(ids=(letter.id,))
        seen.add((data["account"], data["n"]))
        if (data["account"], data["n"]) == POISON:
            await operations.drop(chosen)
            continue

        async def repair(session: Session, account: str = data["account"], n: int = data["n"]) -> None:
            await session.execute("INSERT INTO repaired (account, n) VALUES (?, ?) ON CONFLICT DO NOTHING", account, n)

        if sim.healed or sim.random.random() < repairs:
            await store.transact(repair)
        try:
            await operations.redrive(chosen)
        except Refused:
            continue  # decided about meanwhile
    return bool(letters)
