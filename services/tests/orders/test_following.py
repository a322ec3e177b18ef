"""What payments mean for orders, whatever order their news come in: facts put on the log by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from millstream import Caller
from millstream.testing.harness import Harness
from millstream_services.contracts.order_events import OrderConfirmed, OrderFailed, RefundDue
from millstream_services.contracts.orders import Orders, pb
from millstream_services.contracts.payment_events import PaymentFailed, PaymentOpened, PaymentSucceeded
from millstream_services.orders.service import orders


@pytest.fixture
async def ms() -> AsyncIterator[Harness]:
    async with Harness(orders) as opened:
        yield opened


async def place(ms: Harness, method: str = "") -> str:
    request = pb.PlaceOrderRequest(
        customer="c", currency="USD", lines=[pb.OrderLine(product="p", quantity=1, amount=5)], total=5,
        payment_method=method,
    )  # fmt: skip
    client = Orders(ms.runtime.channel)
    return (await client.place_order(request, caller=Caller("ann", idempotency_key=f"k{method}"))).id


async def state(ms: Harness, order_id: str) -> tuple[str, str | None, str | None]:
    [row] = await ms.rows(orders, "SELECT state, payment_id, payment_state FROM orders WHERE id = ?", order_id)
    return row[0], row[1], row[2]


def opened(order_id: str, payment_id: str) -> PaymentOpened:
    return PaymentOpened(order_id, payment_id, 5, "USD")


def succeeded(order_id: str, payment_id: str) -> PaymentSucceeded:
    return PaymentSucceeded(order_id, payment_id, "ann", 5, "USD")


def failed(order_id: str, payment_id: str) -> PaymentFailed:
    return PaymentFailed(order_id, payment_id, "ann", "declined")


async def test_late_news_of_an_older_payment_do_not_fail_an_order_that_waits_for_a_newer_one(ms: Harness) -> None:
    order_id = await place(ms)
    await ms.publish(opened(order_id, "p1"), failed(order_id, "p1"), opened(order_id, "p2"), failed(order_id, "p1"))
    await ms.quiet()
    assert await state(ms, order_id) == ("PENDING", "p2", "PROCESSING")

    await ms.publish(succeeded(order_id, "p2"), failed(order_id, "p2"))
    await ms.quiet()
    assert await state(ms, order_id) == ("CONFIRMED", "p2", "SUCCESS")
    assert [event.payment_id for event in ms.published(OrderFailed)] == ["p1"]
    assert [event.payment_id for event in ms.published(OrderConfirmed)] == ["p2"]


async def test_a_second_payment_of_a_paid_order_goes_back(ms: Harness) -> None:
    order_id = await place(ms)
    await ms.publish(
        opened(order_id, "p1"), succeeded(order_id, "p1"), opened(order_id, "p2"), succeeded(order_id, "p2")
    )
    await ms.quiet()
    assert await state(ms, order_id) == ("CONFIRMED", "p1", "SUCCESS")
    assert [event.payment_id for event in ms.published(RefundDue)] == ["p2"]


async def test_a_repeat_of_a_success_confirms_once_and_gives_nothing_back(ms: Harness) -> None:
    order_id = await place(ms)
    await ms.publish(opened(order_id, "p1"), succeeded(order_id, "p1"), succeeded(order_id, "p1"))
    await ms.quiet()
    assert len(ms.published(OrderConfirmed)) == 1
    assert ms.published(RefundDue) == []


async def test_money_for_an_unknown_order_goes_back(ms: Harness) -> None:
    await ms.publish(succeeded("nowhere", "p1"))
    await ms.quiet()
    assert [event.payment_id for event in ms.published(RefundDue)] == ["p1"]
    assert await ms.dead_letters(orders) == []
