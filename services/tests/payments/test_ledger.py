"""The ledger: whatever is booked, in whatever order, it balances, and other tools can read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from millstream_services.contracts.currencies import DIGITS, decimal_text
from millstream_services.payments.ledger import (
    ACCOUNTS,
    ORDERS,
    PROVIDER,
    REFUNDS,
    Ledger,
    Transfer,
    beancount,
    beancount_head,
    end_of,
)

CURRENCIES = ("USD", "JPY", "KWD")


class Books(RuleBasedStateMachine):
    """Holds, posts and voids in any order, repeats and nonsense included."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.ended: dict[str, int] = {}

    @rule(target=holds, n=st.integers(0, 30), currency=st.sampled_from(CURRENCIES), amount=st.integers(1, 10**12),
          accounts=st.permutations(ACCOUNTS))  # fmt: skip
    def hold(self, n: int, currency: str, amount: int, accounts: list[str]) -> str:
        try:
            self.ledger.hold(f"h{n}", currency, accounts[0], accounts[1], amount)
        except ValueError:
            assert f"h{n}" in self.ledger.transfers
        return f"h{n}"

    @rule(hold=holds, part=st.floats(0.0, 1.5))
    def post(self, hold: str, part: float) -> None:
        held = self.ledger.transfers[hold].amount
        amount = int(held * part)
        fits = 1 <= amount <= held and self.ended.get(hold, amount) == amount
        try:
            self.ledger.post(hold, amount)
            assert fits
            self.ended[hold] = amount
        except ValueError:
            assert not fits

    @rule(hold=holds)
    def void(self, hold: str) -> None:
        try:
            self.ledger.void(hold)
            assert self.ended.setdefault(hold, 0) == 0
        except ValueError:
            assert self.ended[hold] > 0

    @rule(hold=holds, amount=st.integers(-5, 0))
    def nonsense(self, hold: str, amount: int) -> None:
        with pytest.raises(ValueError, match="transfer"):
            self.ledger.add(Transfer("x", "hold", "USD", PROVIDER, ORDERS, amount))
        with pytest.raises(ValueError, match="no hold"):
            self.ledger.post(end_of(hold))

    @invariant()
    def balances(self) -> None:
        for debit, credit in self.ledger.trial_balance().values():
            assert debit == credit

    @invariant()
    def every_hold_ends_at_most_once(self) -> None:
        posted = sum(t.amount for t in self.ledger.transfers.values() if t.kind == "post")
        assert posted == sum(self.ended.values())


TestBooks = Books.TestCase


def test_a_refund_lessens_what_the_provider_holds_and_shows_beside_the_income() -> None:
    ledger = Ledger()
    ledger.hold("p1", "USD", PROVIDER, ORDERS, 350)
    ledger.post("p1")
    ledger.hold("r1", "USD", REFUNDS, PROVIDER, 100)
    assert ledger.trial_balance() == {"USD": (350, 350)}
    ledger.post("r1")
    assert ledger.balances() == {
        ("USD", PROVIDER): (350, 100), ("USD", ORDERS): (0, 350), ("USD", REFUNDS): (100, 0),
    }  # fmt: skip
    assert ledger.trial_balance() == {"USD": (350, 350)}


@given(st.integers(-(10**15), 10**15), st.sampled_from(sorted(DIGITS)))
def test_a_decimal_text_is_exact(minor: int, currency: str) -> None:
    text = decimal_text(minor, currency)
    whole, _, fraction = text.partition(".")
    assert len(fraction) == DIGITS[currency]
    assert int(whole + fraction) == minor


TRANSFERS = [
    Transfer("p1/end", "post", "USD", PROVIDER, ORDERS, 350, "p1", 1_483_228_800_000_000),
    Transfer("p2/end", "post", "JPY", PROVIDER, ORDERS, 350, "p2", 1_483_228_800_000_000),
    Transfer("r1/end", "post", "USD", REFUNDS, PROVIDER, 5, "r1", 1_483_315_200_000_000),
]


def test_the_export_reads_as_beancount_text() -> None:
    assert beancount(TRANSFERS[:1]) == (
        '2017-01-01 * "p1"\n  Assets:Provider  3.50 USD\n  Income:Orders  -3.50 USD\n\n'
    )


def test_an_independent_tool_accepts_the_export(tmp_path: Path) -> None:
    file = tmp_path / "ledger.beancount"
    file.write_text(beancount_head() + beancount(TRANSFERS))
    assert _checked(file) == (0, "")
    # The same entries with one unit missing: the tool does look.
    file.write_text(beancount_head() + beancount(TRANSFERS).replace("3.50 USD", "3.49 USD", 1))
    code, said = _checked(file)
    assert code == 1
    assert "does not balance" in said


def _checked(file: Path) -> tuple[int, str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("bean-check"), "--no-cache", file], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr
