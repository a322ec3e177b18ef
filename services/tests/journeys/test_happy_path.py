"""An order that is paid at once, from POST to notification, and exactly the JSON that clients rely on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from millstream.errors import TransportUnavailable
from millstream.message import Record

from .conftest import OPERATOR, Shop, new_order


@pytest.mark.everywhere
async def test_an_order_is_paid_booked_and_told_of(shop: Shop) -> None:
    answer = await shop.ms.call("POST", "/orders", new_order(), key="k1")
    placed = answer.json()

    assert answer.status == 201
    assert answer.headers["location"] == f"/orders/{placed['id']}"
    assert placed == {
        "id": placed["id"],
        "state": "PENDING",
        "customer": "2375",
        "currency": "USD",
        "lines": [{"product": "1081177", "quantity": 1, "amount": 350}],
        "total": 350,
        "created_at": "2026-01-01T00:00:00.000000Z",
    }

    await shop.ms.quiet()
    order = await shop.order(placed["id"])
    payment = await shop.ms.get(f"/payments/{order['payment']['id']}")

    assert list(order) == [*placed, "payment", "history"]
    assert order["payment"] == {"id": payment["id"], "state": "SUCCESS"}
    assert [entry["state"] for entry in order["history"]] == ["PENDING", "CONFIRMED"]
    assert payment == {
        "id": payment["id"],
        "order_id": placed["id"],
        "state": "SUCCESS",
        "amount": 350,
        "captured": 350,
        "refunded": 0,
        "attempts": [{"n": 1, "outcome": "succeeded", "at": "2026-01-01T00:00:00.000000Z"}],
    }
    assert await shop.ms.get(f"/notifications?order={placed['id']}") == [
        {"order": placed["id"], "kind": "order.confirmed", "at": "2026-01-01T00:00:00.000000Z"}
    ]
    assert await shop.balance() == {"USD": {"debit": 350, "credit": 350}}
    assert (await shop.book())[placed["id"]] == {
        "key": payment["id"], "status": "succeeded", "charges": 1, "calls": 1, "refunded": 0,
    }  # fmt: skip
    await shop.clean()


async def test_an_order_without_a_payment_waits_for_one(shop: Shop) -> None:
    order_id = await shop.place(method=None)
    await shop.ms.quiet()
    assert (await shop.order(order_id))["payment"] is None

    answer = await shop.ms.call("POST", "/payments", {"order_id": order_id, "method": "sim_ok"}, key="p1")
    assert answer.status == 201
    assert answer.headers["location"] == f"/payments/{answer.json()['id']}"
    assert (answer.json()["state"], answer.json()["captured"]) == ("PROCESSING", 0)
    await shop.ms.quiet()

    order = await shop.order(order_id)
    assert (order["state"], order["payment"]) == ("CONFIRMED", {"id": answer.json()["id"], "state": "SUCCESS"})
    repeated = await shop.ms.call("POST", "/payments", {"order_id": order_id, "method": "sim_ok"}, key="p1")
    assert (repeated.status, repeated.body) == (201, answer.body)
    await shop.clean()


async def test_an_operator_moves_an_order_on_and_the_customer_hears_of_it(shop: Shop) -> None:
    order_id = await shop.place()
    await shop.ms.quiet()

    skipping = await shop.ms.call(
        "POST", f"/orders/{order_id}/advance", {"state": "DELIVERED"}, subject="op", roles=OPERATOR
    )
    assert skipping.status == 409
    for state in ("PREPARING", "OUT_FOR_DELIVERY", "DELIVERED"):
        await shop.ms.post(f"/orders/{order_id}/advance", {"state": state}, subject="op", roles=OPERATOR)
        await shop.ms.advance("1s")

    assert (await shop.order(order_id))["state"] == "DELIVERED"
    assert await shop.told(order_id) == ["order.confirmed", "order.out_for_delivery", "order.delivered"]
    assert await shop.ms.rows("orders", "SELECT was, wanted FROM refusals") == [("CONFIRMED", "DELIVERED")]
    assert (await shop.ms.call("POST", f"/orders/{order_id}/advance", {"state": "PREPARING"})).status == 403


async def test_a_list_of_orders_is_the_callers_own_newest_first_in_pages(shop: Shop) -> None:
    mine = [await shop.place(total=n + 1) for n in range(5)]
    await shop.place(subject="bob")

    answer = await shop.ms.call("GET", "/orders?limit=3")
    assert [order["id"] for order in answer.json()] == mine[:1:-1]
    link = answer.headers["link"]
    assert link == f'</orders?limit=3&after={mine[2]}>; rel="next"'
    following = await shop.ms.call("GET", link[1:].partition(">")[0])
    assert [order["id"] for order in following.json()] == mine[1::-1]
    assert "link" not in following.headers
    assert len(await shop.operator("/orders")) == 6


async def test_a_payment_is_found_from_the_moment_its_order_names_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(topic: str, partition: int, records: Sequence[Record]) -> int:
        raise TransportUnavailable("the log is away: the payments service has not heard of the order")

    with monkeypatch.context() as patch:
        patch.setattr(shop.ms.transport, "publish", away)
        order_id = await shop.place()
        payment = await shop.payment_of(order_id)
        assert payment == {
            "id": payment["id"], "order_id": order_id, "state": "CREATED", "amount": 350, "captured": 0, "refunded": 0,
            "attempts": [],
        }  # fmt: skip
        assert (await shop.ms.call("GET", f"/payments/{payment['id']}", subject="bob")).status == 404
    await shop.until_state(order_id, "CONFIRMED")
    assert (await shop.payment_of(order_id))["state"] == "SUCCESS"
