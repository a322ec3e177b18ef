"""Reconciliation: our payments against the provider's book, page by page.

A difference that the provider's word settles (a payment that we still wait for) is settled by it, the way any answer
is. Every other one becomes a case: missing here, missing there, another amount, another status, charged twice.
"""

from __future__ import annotations

from millstream import Tx

from ..contracts.payment_events import PaymentFailed, PaymentSucceeded
from . import ledger_store
from .cases import open_case
from .charging import apply
from .domain import Answer
from .events import BookRead, BookRequested, ChargeRequested
from .provider import BookEntry, Charged, PaymentProvider
from .settings import PaymentSettings
from .store import StoredPayment, find_payment

__all__ = ["begin_reconciliation", "compare", "difference", "read_book"]

PAGE = 200
MISSING_LIMIT = 500
GRACE_US = 60_000_000
"""What settled so shortly before the comparison began is not looked for: the book may have been read before it."""

Published = PaymentSucceeded | PaymentFailed | ChargeRequested | BookRequested


async def begin_reconciliation(tx: Tx, run_id: str) -> BookRequested:
    """A new comparison."""
    await tx.execute("INSERT INTO reconciliations (id, state, started) VALUES (?, 'RUNNING', ?)", run_id, tx.now_us)
    return BookRequested(run_id)


async def read_book(event: BookRequested, provider: PaymentProvider) -> BookRead:
    """Read a page of the provider's book."""
    page = await provider.book(event.after, PAGE)
    return BookRead(event.run_id, page.entries, page.next)


async def compare(event: BookRead, tx: Tx, settings: PaymentSettings) -> list[Published]:
    """Compare a page; behind the last one, look for what the book does not have."""
    found: list[Published] = []
    resolved = cases = 0
    for entry in event.entries:
        payment = await find_payment(tx, entry.key)
        if payment is not None and payment.state == "PROCESSING" and _ends(entry):
            charged = Charged(entry.answer, entry.ref, amount=entry.amount)
            settled = await apply(tx, payment, charged, settings, source="the provider's book")
            resolved += bool(settled)
            found.extend(settled)
        elif (kind := difference(payment, entry)) is not None:
            detail = f"the book has {entry.answer} {entry.amount} {entry.currency}, charged {entry.charges} times"
            cases += await open_case(tx, kind, entry.key, f"{detail}; here {_describe(payment)}")
        if payment is not None:
            await tx.execute("UPDATE payments SET run = ? WHERE id = ?", event.run_id, payment.id)
    last = not event.next
    if last:
        cases += await _missing_there(tx, event.run_id) + await _ledger_differs(tx)
    else:
        found.append(BookRequested(event.run_id, event.next))
    await tx.execute(
        "UPDATE reconciliations SET compared = compared + ?, resolved = resolved + ?, cases = cases + ?, state = ? "
        "WHERE id = ?",
        len(event.entries), resolved, cases, "DONE" if last else "RUNNING", event.run_id,
    )  # fmt: skip
    return found


def difference(payment: StoredPayment | None, entry: BookEntry) -> str | None:
    """What kind of case an entry makes; None where both books say the same."""
    taken = entry.answer is Answer.SUCCEEDED
    if payment is None:
        return "missing_here" if taken else None
    if entry.charges > 1 or (taken and payment.ref and entry.ref != payment.ref):
        return "duplicate"
    if taken and (entry.amount, entry.currency) != (payment.amount, payment.currency):
        return "amount"
    if taken != (payment.state == "SUCCESS") and payment.state != "PROCESSING":
        return "status"
    if taken and not payment.refunded <= entry.refunded <= payment.reserved:
        return "refunded"
    return None


def _ends(entry: BookEntry) -> bool:
    return entry.answer in (Answer.SUCCEEDED, Answer.DECLINED, Answer.CANCELLED)


def _describe(payment: StoredPayment | None) -> str:
    return "nothing" if payment is None else f"{payment.state} {payment.amount} {payment.currency}"


async def _missing_there(tx: Tx, run_id: str) -> int:
    rows = await tx.fetch(
        "SELECT p.id, p.captured, p.currency FROM payments p JOIN reconciliations r ON r.id = ? "
        "WHERE p.state = 'SUCCESS' AND p.run <> r.id AND p.settled < r.started - ? LIMIT ?",
        run_id, GRACE_US, MISSING_LIMIT,
    )  # fmt: skip
    opened = 0
    for payment_id, captured, currency in rows:
        opened += await open_case(tx, "missing_there", payment_id, f"captured {captured} {currency}, not in the book")
    return opened


async def _ledger_differs(tx: Tx) -> int:
    sums, journal = await ledger_store.balances(tx), await ledger_store.journal_sums(tx)
    opened = 0
    for currency, account in sorted(sums.keys() | journal.keys()):
        here, there = sums.get((currency, account)), journal.get((currency, account))
        if here != there:
            detail = f"the running sums are {here}, the journal adds up to {there}"
            opened += await open_case(tx, "ledger", f"{account} {currency}", detail)
    return opened
