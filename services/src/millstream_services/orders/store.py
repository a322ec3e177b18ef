"""The orders service's rows: the only place that knows its SQL."""

from __future__ import annotations

import msgspec
from millstream import Query, Tx
from millstream.service.state_machine import StateMachine

from .domain import MOVES, Line, NewOrder

__all__ = [
    "StoredOrder",
    "find_order",
    "find_waiting_order",
    "history_of",
    "insert_order",
    "list_orders",
    "order_states",
]

order_states = StateMachine("orders", start="PENDING", moves=MOVES, history="order_history", refusals="refusals")

_COLUMNS = "id, owner, customer, currency, total, lines, state, payment_id, payment_state, created"
_encode = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder(list[tuple[str, int, int]])


class StoredOrder(msgspec.Struct, frozen=True):
    """A row of `orders`."""

    id: str
    owner: str
    customer: str
    currency: str
    total: int
    lines_json: str
    state: str
    payment_id: str | None
    payment_state: str | None
    created_us: int

    @property
    def lines(self) -> list[Line]:
        return [Line(*line) for line in _lines.decode(self.lines_json)]


async def insert_order(tx: Tx, order_id: str, owner: str, order: NewOrder, payment_id: str | None) -> None:
    """A new order in its start state."""
    lines = _encode([(line.product, line.quantity, line.amount) for line in order.lines]).decode()
    await tx.execute(
        f"INSERT INTO orders ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - names from code
        order_id, owner, order.customer, order.currency, order.total, lines, order_states.start, payment_id,
        None if payment_id is None else "PROCESSING", tx.now_us,
    )  # fmt: skip


async def find_order(reads: Tx | Query, order_id: str) -> StoredOrder | None:
    """An order by its id."""
    row = await reads.fetch_one(f"SELECT {_COLUMNS} FROM orders WHERE id = ?", order_id)  # noqa: S608 - names from code
    return None if row is None else StoredOrder(*row)


async def find_waiting_order(reads: Tx | Query, payment_id: str) -> StoredOrder | None:
    """The pending order that asked for a payment."""
    row = await reads.fetch_one(
        f"SELECT {_COLUMNS} FROM orders WHERE payment_id = ? AND state = 'PENDING' AND payment_id IS NOT NULL",  # noqa: S608 - names from code
        payment_id,
    )
    return None if row is None else StoredOrder(*row)


async def list_orders(reads: Tx | Query, owner: str | None, after: str, limit: int) -> list[StoredOrder]:
    """Up to `limit` orders, newest first, of one owner or of all. Ids sort by time, so they are the cursor."""
    below = after or "~"
    if owner is None:
        sql, params = f"SELECT {_COLUMNS} FROM orders WHERE id < ? ORDER BY id DESC LIMIT ?", (below, limit)  # noqa: S608 - names from code
    else:
        sql = f"SELECT {_COLUMNS} FROM orders WHERE owner = ? AND id < ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - names from code
        params = (owner, below, limit)
    return [StoredOrder(*row) for row in await reads.fetch(sql, *params)]


async def history_of(reads: Tx | Query, order: StoredOrder) -> list[tuple[str, int]]:
    """(state, microseconds) of every state the order was in, oldest first."""
    rows = await reads.fetch("SELECT state, at FROM order_history WHERE entity = ? ORDER BY id", order.id)
    return [(order_states.start, order.created_us), *((state, at) for state, at in rows)]
