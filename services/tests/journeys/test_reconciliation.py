"""Our payments against the provider's book: what can be settled is, everything else becomes a case."""

from __future__ import annotations

from .conftest import OPERATOR, Shop


async def reconcile(shop: Shop) -> dict[str, int | str]:
    started = await shop.ms.post("/reconciliation", subject="op", roles=OPERATOR)
    await shop.ms.quiet()
    return await shop.operator(f"/reconciliation/{started['id']}")


async def cases(shop: Shop) -> dict[str, str]:
    return {case["subject"]: case["kind"] for case in await shop.operator("/payments/cases")}


async def test_books_that_agree_make_no_case(shop: Shop) -> None:
    for method in ("sim_ok", "sim_declined", "sim_ok", "sim_never"):
        await shop.place(method)
    await shop.ms.quiet()
    paid = (await shop.payment_of((await shop.operator("/orders"))[1]["id"]))["id"]
    await shop.ms.post(f"/payments/{paid}/refunds", {"amount": 100}, key="r")
    await shop.ms.quiet()

    run = await reconcile(shop)

    assert (run["state"], run["compared"], run["resolved"], run["cases"]) == ("DONE", 4, 0, 0)
    assert await cases(shop) == {}


async def test_each_kind_of_difference_becomes_a_case_once(shop: Shop) -> None:
    orders = [await shop.place(total=100 + n) for n in range(6)]
    await shop.ms.quiet()
    keys = [(await shop.order(order_id))["payment"]["id"] for order_id in orders]
    book = shop.provider.book_store.store
    await book.script(f"""
        DELETE FROM charges WHERE key = '{keys[0]}';
        UPDATE charges SET amount = 1 WHERE key = '{keys[1]}';
        UPDATE charges SET status = 'declined' WHERE key = '{keys[2]}';
        UPDATE charges SET ref = 'ch_another' WHERE key = '{keys[3]}';
        UPDATE charges SET refunded = 50 WHERE key = '{keys[4]}';
        INSERT INTO charges (key, ref, reference, method, amount, currency, status, charges)
        VALUES ('stranger', 'ch_x', '', 'sim_ok', 5, 'USD', 'succeeded', 1);
    """)
    await shop.ms.advance("2m")

    first, second = await reconcile(shop), await reconcile(shop)

    assert await cases(shop) == {
        keys[0]: "missing_there",
        keys[1]: "amount",
        keys[2]: "status",
        keys[3]: "duplicate",
        keys[4]: "refunded",
        "stranger": "missing_here",
    }
    assert (first["cases"], second["cases"]) == (6, 0)


async def test_a_payment_that_still_waits_is_settled_by_the_book(shop: Shop) -> None:
    order_id = await shop.place("sim_late")
    await shop.ms.quiet()
    key = (await shop.order(order_id))["payment"]["id"]
    await shop.provider.book_store.store.script(
        f"UPDATE charges SET status = 'succeeded', charges = 1 WHERE key = '{key}'"
    )

    run = await reconcile(shop)
    await shop.ms.quiet()

    assert (run["resolved"], run["cases"]) == (1, 0)
    assert (await shop.order(order_id))["state"] == "CONFIRMED"
    await shop.clean()


async def test_running_sums_that_differ_from_the_journal_are_found(shop: Shop) -> None:
    await shop.place()
    await shop.ms.quiet()
    await shop.ms.runtime.bound["payments"].store.script("UPDATE accounts SET debits = 351 WHERE debits = 350")
    run = await reconcile(shop)
    assert run["cases"] == 1
    assert await cases(shop) == {"Assets:Provider USD": "ledger"}


async def test_a_book_of_several_pages_is_compared_to_its_end(shop: Shop) -> None:
    for n in range(5):
        await shop.place(total=n + 1)
    await shop.ms.quiet()
    rows = ", ".join(f"('s{n}', 'r', '', 'sim_ok', 1, 'USD', 'declined')" for n in range(420))
    await shop.provider.book_store.store.script(
        f"INSERT INTO charges (key, ref, reference, method, amount, currency, status) VALUES {rows}"
    )
    run = await reconcile(shop)
    assert (run["state"], run["compared"], run["cases"]) == ("DONE", 425, 0)
