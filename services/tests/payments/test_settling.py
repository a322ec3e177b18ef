"""Whatever a provider says, however often and in whatever order, a payment settles once and the books balance."""

from __future__ import annotations

import random
from typing import Any

from millstream import Tx
from millstream.stores.sqlite import SqliteStore
from millstream_services.contracts.payment_events import PaymentFailed, PaymentSucceeded
from millstream_services.payments import ledger_store
from millstream_services.payments.charging import apply, begin
from millstream_services.payments.domain import Answer
from millstream_services.payments.ledger import Ledger, Transfer
from millstream_services.payments.provider import Charged
from millstream_services.payments.refunding import begin_refund
from millstream_services.payments.settings import PaymentSettings
from millstream_services.payments.store import NewPayment, find_payment, insert_payment, release_refund

from .conftest import Run

SETTINGS = PaymentSettings()


async def start(run: Run, payment_id: str, amount: int = 100) -> None:
    new = NewPayment(payment_id, f"o-{payment_id}", "ann", "sim_ok", amount, "USD")

    async def work(tx: Tx) -> None:
        assert await insert_payment(tx, new)
        await begin(tx, new, SETTINGS)

    await run(work)


async def say(run: Run, payment_id: str, answer: Answer, tries: int = 1) -> list[Any]:
    async def work(tx: Tx) -> list[Any]:
        payment = await find_payment(tx, payment_id)
        assert payment is not None
        return await apply(tx, payment, Charged(answer, "ch_1"), SETTINGS, source="a test", tries=tries)

    return await run(work)


async def test_any_sequence_of_answers_settles_a_payment_at_most_once(store: SqliteStore, run: Run) -> None:
    dice = random.Random(5)
    captured = 0
    for n in range(120):
        await start(run, f"p{n}")
        ends: list[object] = []
        first: Answer | None = None
        for _ in range(dice.randint(1, 12)):
            answer = dice.choice(list(Answer))
            if answer in (Answer.SUCCEEDED, Answer.DECLINED, Answer.CANCELLED):
                first = first or answer
            published = await say(run, f"p{n}", answer, dice.randint(1, 3))
            ends += [e for e in published if isinstance(e, PaymentSucceeded | PaymentFailed)]
        state, taken = (await store.query("SELECT state, captured FROM payments WHERE id = ?", f"p{n}"))[0]
        assert len(ends) == (first is not None)
        assert state == {None: "PROCESSING", Answer.SUCCEEDED: "SUCCESS"}.get(first, "FAILED")
        assert taken == (100 if state == "SUCCESS" else 0)
        captured += taken
    rows = await store.query(
        "SELECT id, kind, currency, debit, credit, amount, hold, at FROM transfers ORDER BY at, kind"
    )
    books = Ledger()
    for row in rows:
        books.add(Transfer(*row))
    assert books.trial_balance() == {"USD": (captured, captured)}
    # Whatever is settled asks nobody any more.
    assert await store.query(
        "SELECT COUNT(*) FROM attempts a JOIN payments p ON p.id = a.payment_id "
        "WHERE p.state <> 'PROCESSING' AND a.ask_at IS NOT NULL"
    ) == [(0,)]


async def test_running_sums_are_what_the_journal_adds_up_to(store: SqliteStore, run: Run) -> None:
    for n in range(20):
        await start(run, f"p{n}", n + 1)
        await say(run, f"p{n}", Answer.SUCCEEDED if n % 3 else Answer.DECLINED)

    async def look(tx: Tx) -> tuple[object, object]:
        return await ledger_store.balances(tx), await ledger_store.journal_sums(tx)

    sums, journal = await run(look)
    assert sums == journal
    assert sums["USD", "Assets:Provider"] == (sum(n + 1 for n in range(20) if n % 3), 0)


async def test_refunds_in_any_order_stay_within_what_was_captured(store: SqliteStore, run: Run) -> None:
    dice = random.Random(3)
    await start(run, "p", 1_000)
    await say(run, "p", Answer.SUCCEEDED)
    open_refunds: dict[str, int] = {}
    done = 0
    for n in range(200):
        amount = dice.randint(1, 400)

        async def ask(tx: Tx, n: int = n, amount: int = amount) -> object:
            payment = await find_payment(tx, "p")
            assert payment is not None
            return await begin_refund(tx, payment, f"r{n}", amount, SETTINGS)

        fits = amount <= 1_000 - done - sum(open_refunds.values())
        assert (await run(ask) is not None) == fits
        if fits:
            open_refunds[f"r{n}"] = amount
        if open_refunds and dice.random() < 0.5:
            _, ended = open_refunds.popitem()
            given = dice.random() < 0.2
            done += ended if given else 0
            assert await run(lambda tx, e=ended, g=given: release_refund(tx, "p", e, done=g)) == done
    assert await store.query("SELECT captured, reserved, refunded FROM payments") == [
        (1_000, done + sum(open_refunds.values()), done)
    ]
