"""Declarative state machines over rows: what out-of-order events may do to an entity, and a record of what they may not.

```python
order_states = StateMachine(
    "orders",
    start="PENDING",
    moves={"PENDING": ("CONFIRMED", "FAILED", "CANCELLED"), "CONFIRMED": ("PREPARING", "CANCELLED")},
    history="order_history",
    refusals="refusals",
)


@orders.on(PaymentSucceeded, name="confirm-order")
async def confirm(event: PaymentSucceeded, tx: Tx) -> OrderConfirmed | None:
    if await order_states.move(tx, event.order_id, "CONFIRMED", why="payment succeeded"):
        return OrderConfirmed(event.order_id)
```

A move is one compare-and-set in SQL, so a late or repeated event can never move an entity back, whoever runs beside
it. A refused move changes nothing but the table of refusals; whether a refusal is an error is for the caller to say.
The refusal is part of the caller's transaction: raise after it and it is undone with the rest.

Expected tables (names are the caller's; `at` is in microseconds):

```sql
CREATE TABLE orders (id TEXT PRIMARY KEY, state TEXT NOT NULL, …);
CREATE TABLE order_history (entity TEXT NOT NULL, state TEXT NOT NULL, at BIGINT NOT NULL, why TEXT NOT NULL);
CREATE TABLE refusals (entity TEXT NOT NULL, machine TEXT NOT NULL, was TEXT, wanted TEXT NOT NULL, at BIGINT NOT NULL,
                       why TEXT NOT NULL);
```
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from ..delivery.tx import Tx
from ..errors import Misconfigured
from ..ports.store import Param

__all__ = ["StateMachine"]


class StateMachine:
    """The states of one table's rows. Names of tables and columns come from code, never from input.

    table: its rows have the columns `id` and `state`.
    start: the state that rows are inserted with.
    moves: state → the states that may follow. A state without an entry is final.
    history, refusals: tables that record moves and refused moves; None records none.
    """

    def __init__(
        self,
        table: str,
        *,
        start: str,
        moves: Mapping[str, Iterable[str]],
        history: str | None = None,
        refusals: str | None = None,
    ) -> None:
        self.table: Final = table
        self.start: Final = start
        self.moves: Final = {state: frozenset(following) for state, following in moves.items()}
        self.states: Final = frozenset(self.moves) | {s for following in self.moves.values() for s in following}
        self._refuse = self._record = ""
        if history is not None:
            self._record = f"INSERT INTO {history} (entity, state, at, why) VALUES (?, ?, ?, ?)"  # noqa: S608 - names from code
        if refusals is not None:
            self._refuse = f"INSERT INTO {refusals} (entity, machine, was, wanted, at, why) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - names from code
        self._statements: dict[tuple[str, ...], str] = {}
        self._look = f"SELECT state FROM {table} WHERE id = ?"  # noqa: S608 - a name from code
        self._check(start)

    def allows(self, was: str, to: str) -> bool:
        """Whether an entity may go from one state to the other."""
        return to in self.moves.get(was, ())

    def into(self, to: str) -> tuple[str, ...]:
        """The states from which an entity may come into `to`, sorted."""
        return tuple(sorted(state for state, following in self.moves.items() if to in following))

    def is_final(self, state: str) -> bool:
        """Whether nothing may follow."""
        return not self.moves.get(state)

    async def move(
        self, tx: Tx, entity: str, to: str, *, why: str, change: Mapping[str, Param] | None = None, only: str = "",
        given: tuple[Param, ...] = (), silent: Collection[str | None] = (),
    ) -> bool:  # fmt: skip
        """Bring an entity into a state if its present one allows it; say whether it was done.

        why: what asked for it, for the record.
        change: columns that are set together with the state.
        only: a further SQL condition on the row with `?` for each of `given`, for instance `payment_id = ?`.
        silent: states in which a refusal is expected (a repeat, a lost race) and not recorded.

        Raises:
            Misconfigured: there is no such state.
        """
        change = change or {}
        sql = self._statement(to, tuple(change), only)
        if await tx.execute(sql, *change.values(), entity, *given):
            if self._record:
                await tx.execute(self._record, entity, to, tx.now_us, why)
            return True
        if self._refuse:
            row = await tx.fetch_one(self._look, entity)
            was = None if row is None else row[0]
            if was not in silent:
                await tx.execute(self._refuse, entity, self.table, was, to, tx.now_us, why)
        return False

    def _statement(self, to: str, columns: tuple[str, ...], only: str) -> str:
        place = (to, only, *columns)
        sql = self._statements.get(place)
        if sql is None:
            self._check(to)
            sets = ", ".join([f"state = '{to}'", *(f"{column} = ?" for column in columns)])
            froms = ", ".join(f"'{state}'" for state in self.into(to))
            also = f" AND ({only})" if only else ""
            sql = f"UPDATE {self.table} SET {sets} WHERE id = ? AND state IN ({froms}){also}"  # noqa: S608 - names from code
            self._statements[place] = sql
        return sql

    def _check(self, state: str) -> None:
        if state not in self.states or "'" in state:
            raise Misconfigured(
                f"{self.table}: there is no state {state!r}; there are {', '.join(sorted(self.states))}"
            )
        if state != self.start and not self.into(state):
            raise Misconfigured(f"{self.table}: nothing leads to the state {state!r}")
