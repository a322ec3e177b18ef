"""One order, one payment, one reply for a key, however often and however much at once it is sent.

Shipped elsewhere: a check before the insert, whose race answers with an error instead of the stored reply; keys that
other clients can collide with; a reply that differs from the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from millstream.testing.harness import Harness

from .conftest import Shop, new_order


async def test_a_hundred_equal_requests_at_once_make_one_order_and_get_one_reply(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.ms.call("POST", "/orders", new_order(), key="same") for _ in range(100)))
    await shop.ms.quiet()

    assert {(a.status, a.headers["location"], a.body) for a in answers} == {
        (201, answers[0].headers["location"], answers[0].body)
    }
    assert await shop.ms.rows("orders", "SELECT COUNT(*) FROM orders") == [(1,)]
    assert [row["charges"] for row in (await shop.book()).values()] == [1]
    await shop.clean()


async def test_the_reply_is_the_same_after_a_restart_and_after_the_order_went_on(start: Callable[..., Harness]) -> None:
    async with start() as ms:
        first = await ms.call("POST", "/orders", new_order(), key="k")
        await ms.quiet()
    async with start() as ms:
        await ms.clock.advance(600)
        again = await ms.call("POST", "/orders", new_order(), key="k")
        await ms.quiet()
        assert (again.status, again.body) == (201, first.body)
        assert await ms.rows("orders", "SELECT COUNT(*) FROM orders") == [(1,)]


async def test_another_body_under_the_same_key_is_refused(shop: Shop) -> None:
    await shop.place(key="k")
    other = await shop.ms.call("POST", "/orders", new_order(total=351), key="k")
    assert (other.status, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


async def test_two_clients_may_use_the_same_key(shop: Shop) -> None:
    assert await shop.place(key="k") != await shop.place(key="k", subject="bob")


async def test_a_write_without_a_key_is_refused(shop: Shop) -> None:
    order_id = await shop.place(method=None)
    for path, body in (
        ("/orders", new_order()),
        ("/payments", {"order_id": order_id, "method": "sim_ok"}),
        ("/payments/none/refunds", {"amount": 1}),
    ):
        answer = await shop.ms.call("POST", path, body)
        assert (answer.status, answer.json()["type"]) == (400, "/problems/idempotency-key-missing"), path


@pytest.mark.everywhere
async def test_concurrent_payments_of_one_order_charge_it_once(shop: Shop) -> None:
    order_id = await shop.place(method=None)
    body = {"order_id": order_id, "method": "sim_ok"}

    answers = await asyncio.gather(*(shop.ms.call("POST", "/payments", body, key=f"p{n}") for n in range(20)))
    await shop.ms.quiet()

    assert sorted(a.status for a in answers) == [201] + [409] * 19
    assert (await shop.order(order_id))["state"] == "CONFIRMED"
    assert len(await shop.book()) == 1
    await shop.clean()
