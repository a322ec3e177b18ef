"""Rows and events are one: an order that was accepted is paid, whatever is away at the moment.

Shipped elsewhere: an event published after the commit, its failure ignored. The order stood there and was never paid.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from millstream.errors import TransportUnavailable
from millstream.message import Record

from .conftest import Shop, new_order


@pytest.mark.everywhere
async def test_orders_accepted_while_the_log_is_away_are_paid_when_it_is_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(topic: str, partition: int, records: Sequence[Record]) -> int:
        raise TransportUnavailable("the log is away")

    with monkeypatch.context() as patch:
        patch.setattr(shop.ms.transport, "publish", away)
        placed = [await shop.place(total=n + 1) for n in range(5)]
        await shop.ms.clock.advance(5)
    assert [(await shop.order(order_id))["state"] for order_id in placed] == ["PENDING"] * 5

    for order_id in placed:
        await shop.until_state(order_id, "CONFIRMED")
    await shop.ms.advance("1s")
    assert [await shop.told(order_id) for order_id in placed] == [["order.confirmed"]] * 5
    await shop.clean()


async def test_an_order_that_is_refused_leaves_neither_row_nor_event(shop: Shop) -> None:
    refused = await shop.ms.call("POST", "/orders", new_order() | {"total": 351}, key="k")
    await shop.ms.quiet()
    assert refused.status == 422
    assert await shop.ms.rows("orders", "SELECT COUNT(*) FROM orders") == [(0,)]
    assert shop.ms.messages("orders") == []
