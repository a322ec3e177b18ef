"""Double-entry book-keeping: immutable transfers between two accounts, in minor units, one ledger per currency.

Every transfer debits one account and credits another with the same amount, so the books cannot fail to balance. Money
that is promised but not moved is a *hold*, which ends exactly once: posted, in part or whole, or voided. Pure: the rows
are in `ledger_store.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from ..contracts.currencies import decimal_text

__all__ = ["ACCOUNTS", "ORDERS", "PROVIDER", "REFUNDS", "Ledger", "Transfer", "beancount", "beancount_head", "end_of"]

PROVIDER = "Assets:Provider"
"""Money that the provider holds for us."""
ORDERS = "Income:Orders"
REFUNDS = "Income:Refunds"
"""What went back; a debit here lessens the income."""
ACCOUNTS = (PROVIDER, ORDERS, REFUNDS)

Kind = Literal["hold", "post", "void"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """One entry of the journal. `hold` names the hold that a post or void ends."""

    id: str
    kind: Kind
    currency: str
    debit: str
    credit: str
    amount: int
    hold: str | None = None
    at_us: int = 0


def end_of(hold: str) -> str:
    """The id of the transfer that ends a hold. One id for both ends: a hold can be posted or voided, never both."""
    return f"{hold}/end"


@dataclass
class Ledger:
    """The books in memory: the rules that the tables must follow, and what they are checked against.

    Raises `ValueError` from `add` for whatever may not be booked; nothing is changed then.
    """

    transfers: dict[str, Transfer] = field(default_factory=dict[str, Transfer])

    def hold(self, id: str, currency: str, debit: str, credit: str, amount: int) -> None:  # noqa: A002 - its name
        """Promise an amount."""
        self.add(Transfer(id, "hold", currency, debit, credit, amount))

    def post(self, hold: str, amount: int | None = None) -> None:
        """Move what was promised, or less."""
        held = self._held(hold)
        moved = held.amount if amount is None else amount
        self.add(Transfer(end_of(hold), "post", held.currency, held.debit, held.credit, moved, hold))

    def void(self, hold: str) -> None:
        """Take the promise back."""
        held = self._held(hold)
        self.add(Transfer(end_of(hold), "void", held.currency, held.debit, held.credit, held.amount, hold))

    def add(self, transfer: Transfer) -> None:
        """Append to the journal. The same transfer again changes nothing."""
        known = self.transfers.get(transfer.id)
        if known is not None:
            if known != transfer:
                raise ValueError(f"transfer {transfer.id} is booked already, and differently")
            return
        if transfer.amount < 1 or transfer.debit == transfer.credit:
            raise ValueError(f"transfer {transfer.id}: an amount above 0 between two accounts")
        if transfer.kind != "hold":
            held = self._held(transfer.hold or "")
            if transfer.amount > held.amount:
                raise ValueError(f"transfer {transfer.id}: {transfer.amount} of a hold of {held.amount}")
        self.transfers[transfer.id] = transfer

    def balances(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(currency, account) → (debits, credits) of what is posted."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for transfer in self.transfers.values():
            if transfer.kind == "post":
                for account, debit, credit in (
                    (transfer.debit, transfer.amount, 0),
                    (transfer.credit, 0, transfer.amount),
                ):
                    old_debit, old_credit = found.get((transfer.currency, account), (0, 0))
                    found[transfer.currency, account] = (old_debit + debit, old_credit + credit)
        return found

    def trial_balance(self) -> dict[str, tuple[int, int]]:
        """Currency → (sum of debit balances, sum of credit balances); they are equal."""
        return trial_balance(self.balances())

    def _held(self, hold: str) -> Transfer:
        held = self.transfers.get(hold)
        if held is None or held.kind != "hold":
            raise ValueError(f"there is no hold {hold}")
        return held


def trial_balance(balances: Mapping[tuple[str, str], tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Currency → (sum of debit balances, sum of credit balances), each account netted first."""
    found: dict[str, tuple[int, int]] = {}
    for (currency, _), (debited, credited) in sorted(balances.items()):
        debit, credit = found.get(currency, (0, 0))
        net = debited - credited
        found[currency] = (debit + max(net, 0), credit + max(-net, 0))
    return found


def beancount_head() -> str:
    """The declarations that a beancount file begins with."""
    opened = "".join(f"1970-01-01 open {account}\n" for account in ACCOUNTS)
    return f'option "title" "Millstream payments"\n\n{opened}\n'


def beancount(transfers: Iterable[Transfer]) -> str:
    """Posted transfers as beancount transactions: https://beancount.github.io/docs/beancount_language_syntax.html."""
    parts: list[str] = []
    for transfer in transfers:
        day = datetime.fromtimestamp(transfer.at_us // 1_000_000, UTC).date().isoformat()
        amount = decimal_text(transfer.amount, transfer.currency)
        parts.append(
            f'{day} * "{transfer.hold or transfer.id}"\n'
            f"  {transfer.debit}  {amount} {transfer.currency}\n"
            f"  {transfer.credit}  -{amount} {transfer.currency}\n\n"
        )
    return "".join(parts)
