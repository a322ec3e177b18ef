"""Orders that must be refused, with the line named; real baskets of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Shop, new_order

BASKETS = Path(__file__).parents[3] / "examples" / "data" / "baskets.jsonl"


def lines(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"product": "p", "quantity": 1, "amount": 1, **change} for change in changes]


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        ({"lines": lines({}, {}, {}, {"quantity": 0}), "total": 4}, "lines[3].quantity", "must be at least 1"),
        ({"lines": lines({"quantity": -5})}, "lines[0].quantity", "must be at least 1"),
        ({"lines": lines({}, {"amount": -1}), "total": 1}, "lines[1].amount", "must be at least 0"),
        ({"lines": lines({"product": ""})}, "lines[0].product", "must have 1 to 200 characters"),
        ({"lines": []}, "lines", "must have 1 to 500 entries"),
        ({"lines": lines(*[{}] * 501)}, "lines", "must have 1 to 500 entries"),
        ({"lines": lines({"amount": 0}), "total": 0}, "total", "must be 1 to 1000000000000000"),
        ({"total": 349}, "total", "must be the sum of the lines' amounts, 350"),
        ({"currency": "usd"}, "currency", "must be an ISO 4217 code, for instance USD"),
        ({"currency": "XYZ"}, "currency", "must be an ISO 4217 code, for instance USD"),
        ({"customer": " "}, "customer", "must have 1 to 200 characters"),
        ({"payment": {"method": "cash"}}, "payment.method", "must be one of sim_declined, "),
        ({"total": "350"}, "total", "expected `int`, got `str`"),
        ({"lines": [{"product": "p", "quantity": 1}]}, "lines[0].amount", "is required"),
        ({"total": 2**63}, "total", "must fit into 64 bits"),
    ],
)
async def test_a_wrong_order_is_refused_with_its_place(
    shop: Shop, change: dict[str, Any], at: str, message: str
) -> None:
    answer = await shop.ms.call("POST", "/orders", new_order() | change, key="k")

    problem = answer.json()
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [place for place in problem["errors"] if place["at"] == at and place["message"].startswith(message)], problem
    assert at in problem["detail"]
    assert await shop.ms.rows("orders", "SELECT COUNT(*) FROM orders") == [(0,)]


async def test_every_problem_of_an_order_is_named_at_once(shop: Shop) -> None:
    wrong = {"customer": "", "currency": "??", "lines": lines({"quantity": 0}, {"amount": -1}), "total": 7}
    answer = await shop.ms.call("POST", "/orders", wrong, key="k")
    assert [place["at"] for place in answer.json()["errors"]] == [
        "customer", "currency", "lines[0].quantity", "lines[1].amount", "total",
    ]  # fmt: skip


async def test_a_free_line_and_a_quantity_in_the_thousands_are_fine(shop: Shop) -> None:
    body = new_order() | {"lines": lines({"amount": 350, "quantity": 25_000}, {"amount": 0})}
    assert (await shop.ms.call("POST", "/orders", body, key="k")).status == 201


async def test_real_baskets_are_accepted_or_refused_as_their_numbers_say(shop: Shop) -> None:
    baskets = [json.loads(line) for line in BASKETS.read_text().splitlines()]
    accepted = []
    for basket in baskets:
        body = {name: basket[name] for name in ("customer", "currency", "lines", "total")}
        answer = await shop.ms.call("POST", "/orders", body | {"payment": {"method": "sim_ok"}}, key=basket["basket"])
        good = basket["total"] > 0 and all(x["quantity"] >= 1 and x["amount"] >= 0 for x in basket["lines"])
        assert answer.status == (201 if good else 422), basket
        if good:
            accepted.append(answer.json()["id"])
    await shop.ms.quiet()

    total = sum(b["total"] for b in baskets if b["total"] > 0 and all(x["quantity"] >= 1 for x in b["lines"]))
    assert 0 < len(accepted) < len(baskets)
    assert await shop.balance() == {"USD": {"debit": total, "credit": total}}
    confirmed = await shop.ms.rows("orders", "SELECT COUNT(*) FROM orders WHERE state = 'CONFIRMED'")
    assert confirmed == [(len(accepted),)]
    told = await shop.ms.rows("notifications", "SELECT COUNT(DISTINCT order_id), COUNT(*) FROM notifications")
    assert told == [(len(accepted), len(accepted))]
    await shop.clean()
