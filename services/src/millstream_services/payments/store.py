"""The payments service's rows: the only place that knows their SQL, but for the ledger and the cases."""

from __future__ import annotations

import msgspec
from millstream import Query, Tx
from millstream.service.state_machine import StateMachine

from .domain import MOVES, OPEN, REFUND_MOVES, Outcome, Try

__all__ = [
    "NewPayment",
    "StoredPayment",
    "StoredRefund",
    "add_attempt",
    "attempts_of_payment",
    "close_attempt",
    "due_attempts",
    "due_refunds",
    "find_payment",
    "find_refund",
    "insert_payment",
    "insert_refund",
    "live_payment",
    "open_attempt",
    "payment_states",
    "postpone_attempt",
    "postpone_refund",
    "refund_states",
    "release_refund",
    "reserve_refund",
    "wait_for_attempt",
]

payment_states = StateMachine("payments", start="CREATED", moves=MOVES, refusals="refusals")
refund_states = StateMachine("refunds", start="REQUESTED", moves=REFUND_MOVES, refusals="refusals")

_COLUMNS = "id, order_id, owner, method, amount, currency, state, captured, reserved, refunded, ref"
_OPEN = ", ".join(f"'{outcome}'" for outcome in OPEN)


class NewPayment(msgspec.Struct, frozen=True):
    """What a payment is, and stays, from its beginning."""

    id: str
    order_id: str
    owner: str
    method: str
    amount: int
    currency: str


class StoredPayment(NewPayment, frozen=True):
    """A row of `payments`."""

    state: str
    captured: int
    reserved: int
    refunded: int
    ref: str


class StoredRefund(msgspec.Struct, frozen=True):
    """A row of `refunds`."""

    id: str
    payment_id: str
    amount: int
    state: str
    asked: int


# -- payments ------------------------------------------------------------------------------------------------------


async def insert_payment(tx: Tx, new: NewPayment) -> bool:
    """A new payment in its start state; False when it is known, or another one of the order is live."""
    return bool(
        await tx.execute(
            "INSERT INTO payments (id, order_id, owner, method, amount, currency, state, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            new.id, new.order_id, new.owner, new.method, new.amount, new.currency, payment_states.start, tx.now_us,
        )
    )  # fmt: skip


async def find_payment(reads: Tx | Query, payment_id: str) -> StoredPayment | None:
    """A payment by its id."""
    row = await reads.fetch_one(f"SELECT {_COLUMNS} FROM payments WHERE id = ?", payment_id)  # noqa: S608 - names from code
    return None if row is None else StoredPayment(*row)


async def lock_payment(tx: Tx, payment_id: str) -> StoredPayment | None:
    """A payment as it stands now, and nobody else changes it until this transaction ends. For whoever reads and then
    decides: on PostgreSQL what a plain read found may be over by the next statement. A statement that every store speaks."""
    row = await tx.fetch_one(f"UPDATE payments SET state = state WHERE id = ? RETURNING {_COLUMNS}", payment_id)  # noqa: S608 - names from code
    return None if row is None else StoredPayment(*row)


async def live_payment(reads: Tx | Query, order_id: str) -> StoredPayment | None:
    """The payment of an order that is under way or has succeeded."""
    row = await reads.fetch_one(
        f"SELECT {_COLUMNS} FROM payments WHERE order_id = ? AND state <> 'FAILED'",  # noqa: S608 - names from code
        order_id,
    )
    return None if row is None else StoredPayment(*row)


# -- attempts ------------------------------------------------------------------------------------------------------


async def add_attempt(tx: Tx, payment_id: str, n: int, ask_us: int, give_up_us: int) -> None:
    """An attempt that begins now. Its call may be on its way for long, so the first question comes late."""
    await tx.execute(
        "INSERT INTO attempts (payment_id, n, outcome, at, ask_at, give_up_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        payment_id, n, Outcome.STARTED, tx.now_us, tx.now_us + ask_us, tx.now_us + give_up_us,
    )  # fmt: skip


async def open_attempt(tx: Tx, payment_id: str) -> Try | None:
    """The attempt whose outcome can still change; there is one at most."""
    row = await tx.fetch_one(
        f"SELECT n, outcome FROM attempts WHERE payment_id = ? AND outcome IN ({_OPEN})",  # noqa: S608 - names from code
        payment_id,
    )
    return None if row is None else Try(row[0], Outcome(row[1]))


async def close_attempt(tx: Tx, payment_id: str, done: list[Try], opened: int) -> None:
    """The open attempt, number `opened`, ended as `done` says: usually one outcome, or errors and then one."""
    first, *more = done
    await tx.execute(
        f"UPDATE attempts SET outcome = ?, at = ?, ask_at = NULL "  # noqa: S608 - names from code
        f"WHERE payment_id = ? AND n = ? AND outcome IN ({_OPEN})",
        first.outcome, tx.now_us, payment_id, opened,
    )  # fmt: skip
    for attempt in more:
        await tx.execute(
            "INSERT INTO attempts (payment_id, n, outcome, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            payment_id, attempt.n, attempt.outcome, tx.now_us,
        )  # fmt: skip


async def wait_for_attempt(tx: Tx, payment_id: str, n: int, outcome: Outcome, ask_us: int, limit_us: int) -> None:
    """The attempt is unknown or pending: ask about it soon, and no longer than the limit from the first such news."""
    await tx.execute(
        f"UPDATE attempts SET outcome = ?, at = ?, ask_at = ?, "  # noqa: S608 - names from code
        f"give_up_at = CASE WHEN outcome = '{Outcome.STARTED}' THEN ? ELSE give_up_at END "
        f"WHERE payment_id = ? AND n = ? AND outcome IN ({_OPEN})",
        outcome, tx.now_us, tx.now_us + ask_us, tx.now_us + limit_us, payment_id, n,
    )  # fmt: skip


async def due_attempts(tx: Tx, limit: int) -> list[tuple[str, int, int, int]]:
    """(payment, n, questions so far, when to give up) of attempts that the janitor should ask about, longest due first."""
    rows = await tx.fetch(
        "SELECT payment_id, n, asked, give_up_at FROM attempts WHERE ask_at <= ? ORDER BY ask_at LIMIT ?",
        tx.now_us, limit,
    )  # fmt: skip
    return [(payment_id, n, asked, give_up_at) for payment_id, n, asked, give_up_at in rows]


async def postpone_attempt(tx: Tx, payment_id: str, n: int, ask_at: int) -> None:
    """A question is on its way; ask again then, should it bring nothing."""
    await tx.execute(
        "UPDATE attempts SET ask_at = ?, asked = asked + 1 WHERE payment_id = ? AND n = ?", ask_at, payment_id, n
    )


async def attempts_of_payment(reads: Tx | Query, payment_id: str) -> list[tuple[int, str, int]]:
    """(n, outcome, microseconds) in order."""
    rows = await reads.fetch("SELECT n, outcome, at FROM attempts WHERE payment_id = ? ORDER BY n", payment_id)
    return [(n, outcome, at) for n, outcome, at in rows]


# -- refunds -------------------------------------------------------------------------------------------------------


async def reserve_refund(tx: Tx, payment_id: str, amount: int) -> bool:
    """Set an amount aside for a refund, if that much is left: one compare-and-set, safe beside any other."""
    return bool(
        await tx.execute(
            "UPDATE payments SET reserved = reserved + ? WHERE id = ? AND state = 'SUCCESS' AND captured - reserved >= ?",
            amount, payment_id, amount,
        )
    )  # fmt: skip


async def release_refund(tx: Tx, payment_id: str, amount: int, *, done: bool) -> int:
    """A refund ended: it was given back, or its amount is free again. Returns the sum given back so far."""
    sets = "refunded = refunded + ?" if done else "reserved = reserved - ?"
    row = await tx.fetch_one(
        f"UPDATE payments SET {sets} WHERE id = ? RETURNING refunded",  # noqa: S608 - names from code
        amount, payment_id,
    )  # fmt: skip
    return 0 if row is None else row[0]


async def insert_refund(tx: Tx, refund_id: str, payment_id: str, amount: int, ask_us: int) -> bool:
    """A new refund; False when it is known."""
    return bool(
        await tx.execute(
            "INSERT INTO refunds (id, payment_id, amount, state, created, ask_at) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            refund_id, payment_id, amount, refund_states.start, tx.now_us, tx.now_us + ask_us,
        )
    )  # fmt: skip


async def find_refund(reads: Tx | Query, refund_id: str) -> StoredRefund | None:
    """A refund by its id."""
    row = await reads.fetch_one("SELECT id, payment_id, amount, state, asked FROM refunds WHERE id = ?", refund_id)
    return None if row is None else StoredRefund(*row)


async def due_refunds(tx: Tx, limit: int) -> list[StoredRefund]:
    """Refunds that the provider has not answered for too long, longest due first."""
    rows = await tx.fetch(
        "SELECT id, payment_id, amount, state, asked FROM refunds WHERE ask_at <= ? ORDER BY ask_at LIMIT ?",
        tx.now_us, limit,
    )  # fmt: skip
    return [StoredRefund(*row) for row in rows]


async def postpone_refund(tx: Tx, refund_id: str, ask_at: int) -> None:
    """It is asked for anew; look at it again then."""
    await tx.execute("UPDATE refunds SET ask_at = ?, asked = asked + 1 WHERE id = ?", ask_at, refund_id)
