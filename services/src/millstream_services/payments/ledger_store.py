"""The ledger's rows: holds and their ends as single statements that the tables themselves keep honest."""

from __future__ import annotations

from millstream import Query, Tx

from .ledger import Transfer, end_of, trial_balance

__all__ = ["balances", "hold", "journal_sums", "posted_after", "settle", "trial_balances"]

_HOLD = "INSERT INTO transfers (id, kind, currency, debit, credit, amount, hold, at) VALUES (?, 'hold', ?, ?, ?, ?, NULL, ?)"
_END = (
    "INSERT INTO transfers (id, kind, currency, debit, credit, amount, hold, at) "
    "SELECT ?, ?, currency, debit, credit, amount, id, ? FROM transfers WHERE id = ? AND kind = 'hold' "
    "RETURNING currency, debit, credit, amount"
)
_SUM = (
    "INSERT INTO accounts (currency, account, debits, credits) VALUES (?, ?, ?, ?) ON CONFLICT (currency, account) "
    "DO UPDATE SET debits = accounts.debits + excluded.debits, credits = accounts.credits + excluded.credits"
)
_POSTED = (
    "SELECT id, kind, currency, debit, credit, amount, hold, at FROM transfers WHERE id > ? AND kind = 'post' "
    "ORDER BY id LIMIT ?"
)


async def hold(tx: Tx, id: str, currency: str, debit: str, credit: str, amount: int) -> None:  # noqa: A002 - its name
    """Promise an amount."""
    await tx.execute(_HOLD, id, currency, debit, credit, amount, tx.now_us)


async def settle(tx: Tx, held: str, *, post: bool) -> None:
    """End a hold: move its amount, or take the promise back.

    Raises:
        Conflict: it has ended already. LookupError: there is no such hold. Both undo the transaction.
    """
    row = await tx.fetch_one(_END, end_of(held), "post" if post else "void", tx.now_us, held)
    if row is None:
        raise LookupError(f"there is no hold {held}")
    if post:
        currency, debit, credit, amount = row
        # One order of accounts for every writer, so that two of them cannot wait for each other.
        for account, debits, credits_ in sorted([(debit, amount, 0), (credit, 0, amount)]):
            await tx.execute(_SUM, currency, account, debits, credits_)


async def balances(reads: Tx | Query) -> dict[tuple[str, str], tuple[int, int]]:
    """(currency, account) → (debits, credits) of what is posted."""
    rows = await reads.fetch("SELECT currency, account, debits, credits FROM accounts")
    return {(currency, account): (debits, credits_) for currency, account, debits, credits_ in rows}


async def trial_balances(reads: Tx | Query) -> dict[str, tuple[int, int]]:
    """Currency → (sum of debit balances, sum of credit balances)."""
    return trial_balance(await balances(reads))


async def journal_sums(reads: Tx | Query) -> dict[tuple[str, str], tuple[int, int]]:
    """As `balances`, but added up from the journal itself: what the running sums are checked against."""
    rows = await reads.fetch(
        "SELECT currency, account, SUM(debit), SUM(credit) FROM ("
        "SELECT currency, debit AS account, amount AS debit, 0 AS credit FROM transfers WHERE kind = 'post' "
        "UNION ALL SELECT currency, credit, 0, amount FROM transfers WHERE kind = 'post') AS entries "
        "GROUP BY currency, account"
    )
    return {(currency, account): (int(debits), int(credits_)) for currency, account, debits, credits_ in rows}


async def posted_after(reads: Tx | Query, after: str, limit: int) -> list[Transfer]:
    """Up to `limit` posted transfers behind an id, by id."""
    return [Transfer(*row) for row in await reads.fetch(_POSTED, after, limit)]
