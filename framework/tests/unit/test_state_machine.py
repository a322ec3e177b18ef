"""State machines: declared moves are compare-and-set, everything else is refused and recorded."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from millstream.delivery.outbox import Origin, Outbox
from millstream.delivery.tx import Tx
from millstream.errors import Misconfigured
from millstream.ids import Ids
from millstream.ports.store import Session
from millstream.service.state_machine import StateMachine
from millstream.stores.sqlite import SqliteStore

MOVES = {
    "PENDING": ("CONFIRMED", "FAILED", "CANCELLED"),
    "CONFIRMED": ("DELIVERED", "CANCELLED"),
    "FAILED": ("PENDING",),
}
SCHEMA = """
CREATE TABLE orders (id TEXT PRIMARY KEY, state TEXT NOT NULL, payment TEXT, paid INTEGER NOT NULL DEFAULT 0);
CREATE TABLE history (entity TEXT NOT NULL, state TEXT NOT NULL, at BIGINT NOT NULL, why TEXT NOT NULL);
CREATE TABLE refusals (entity TEXT NOT NULL, machine TEXT NOT NULL, was TEXT, wanted TEXT NOT NULL, at BIGINT NOT NULL,
                       why TEXT NOT NULL);
INSERT INTO orders (id, state, payment) VALUES ('a', 'PENDING', 'p1');
"""


def machine() -> StateMachine:
    return StateMachine("orders", start="PENDING", moves=MOVES, history="history", refusals="refusals")


async def run(store: SqliteStore, work: Callable[[Tx], Awaitable[Any]]) -> Any:
    async def unit(session: Session) -> Any:
        return await work(Tx(session, Outbox(Origin("test", Ids())), 1_000))

    return await store.transact(unit)


@pytest.fixture
async def store(tmp_path: Path):
    async with SqliteStore(tmp_path / "orders.db") as opened:
        await opened.script(SCHEMA)
        yield opened


async def test_a_declared_move_is_done_and_recorded(store: SqliteStore) -> None:
    assert await run(store, lambda tx: machine().move(tx, "a", "CONFIRMED", why="paid", change={"paid": 350}))

    assert await store.query("SELECT state, paid FROM orders") == [("CONFIRMED", 350)]
    assert await store.query("SELECT entity, state, at, why FROM history") == [("a", "CONFIRMED", 1_000, "paid")]
    assert await store.query("SELECT * FROM refusals") == []


async def test_a_late_event_cannot_move_a_finished_entity_back(store: SqliteStore) -> None:
    states = machine()
    await run(store, lambda tx: states.move(tx, "a", "CONFIRMED", why="paid"))
    await run(store, lambda tx: states.move(tx, "a", "DELIVERED", why="courier"))

    assert not await run(store, lambda tx: states.move(tx, "a", "FAILED", why="late"))

    assert await store.query("SELECT state FROM orders") == [("DELIVERED",)]
    assert await store.query("SELECT entity, machine, was, wanted, at, why FROM refusals") == [
        ("a", "orders", "DELIVERED", "FAILED", 1_000, "late")
    ]


async def test_a_further_condition_is_part_of_the_compare_and_set(store: SqliteStore) -> None:
    states = machine()

    moved = await run(store, lambda tx: states.move(tx, "a", "FAILED", why="x", only="payment = ?", given=("p0",)))

    assert not moved
    assert await store.query("SELECT was, wanted FROM refusals") == [("PENDING", "FAILED")]
    assert await run(store, lambda tx: states.move(tx, "a", "FAILED", why="x", only="payment = ?", given=("p1",)))


async def test_an_unknown_entity_is_refused_and_an_expected_refusal_leaves_no_record(store: SqliteStore) -> None:
    states = machine()
    await run(store, lambda tx: states.move(tx, "a", "CONFIRMED", why="paid"))

    assert not await run(store, lambda tx: states.move(tx, "b", "CONFIRMED", why="paid"))
    assert not await run(store, lambda tx: states.move(tx, "a", "CONFIRMED", why="again", silent=("CONFIRMED",)))

    assert await store.query("SELECT entity, was FROM refusals") == [("b", None)]


async def test_whatever_is_asked_in_whatever_order_only_declared_moves_happen(store: SqliteStore) -> None:
    states, dice = machine(), random.Random(7)
    was, moved, refused = "PENDING", 0, 0
    for _ in range(300):
        to = dice.choice(sorted(states.states))
        done = await run(store, lambda tx, to=to: states.move(tx, "a", to, why="dice"))
        assert done == states.allows(was, to)
        was, moved, refused = (to, moved + 1, refused) if done else (was, moved, refused + 1)
        if states.is_final(was):
            await store.script("UPDATE orders SET state = 'PENDING' WHERE id = 'a'")
            was = "PENDING"

    assert await store.query("SELECT count(*) FROM history") == [(moved,)]
    assert await store.query("SELECT count(*) FROM refusals") == [(refused,)]
    assert moved > 20
    assert refused > 20


def test_a_misspelt_or_unreachable_state_is_refused_at_once() -> None:
    with pytest.raises(Misconfigured, match="no state 'PAID'"):
        machine()._statement("PAID", (), "")
    with pytest.raises(Misconfigured, match="there is no state"):
        StateMachine("orders", start="NEW", moves=MOVES)
