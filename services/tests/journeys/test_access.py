"""Who may see and do what. Shipped elsewhere: a gateway that claims authentication and has none."""

from __future__ import annotations

import pytest
from millstream.testing.asgi import request
from millstream_services.gateway.service import gateway

from .conftest import OPERATOR, Shop, new_order

PUBLIC = {("POST", "/webhooks/provider")}


def paths(order_id: str) -> list[tuple[str, str]]:
    return [
        (route.method, route.path.replace("{order_id}", order_id).replace("{case_id}", "1")) for route in gateway.routes
    ]


async def test_no_route_answers_without_a_token_but_the_signed_webhook(shop: Shop) -> None:
    order_id = await shop.place()
    app = shop.ms._app
    assert app is not None
    for method, path in paths(order_id):
        answer = await request(app, method, path, b"{}", {"content-type": "application/json", "idempotency-key": "k"})
        assert answer.status == 401, (method, path)
    assert {(r.method, r.path) for r in gateway.routes if r.public} == PUBLIC


async def test_what_belongs_to_another_client_does_not_exist(shop: Shop) -> None:
    order_id = await shop.place()
    await shop.ms.quiet()
    payment_id = (await shop.payment_of(order_id))["id"]
    nothing = await shop.ms.call("GET", "/orders/0123", subject="bob")
    for method, path, body in (
        ("GET", f"/orders/{order_id}", None),
        ("POST", f"/orders/{order_id}/cancel", None),
        ("GET", f"/payments/{payment_id}", None),
        ("POST", f"/payments/{payment_id}/refunds", {"amount": 1}),
        ("POST", "/payments", {"order_id": order_id, "method": "sim_ok"}),
        ("GET", f"/notifications?order={order_id}", None),
    ):
        answer = await shop.ms.call(method, path, body, subject="bob", key="k")
        assert answer.status == 404, (method, path)
    assert nothing.status == 404
    assert (await shop.ms.call("GET", f"/orders/{order_id}", subject="op", roles=OPERATOR)).status == 200
    assert (await shop.ms.call("GET", f"/payments/{payment_id}", subject="op", roles=OPERATOR)).status == 200
    assert await shop.operator(f"/notifications?order={order_id}")
    assert (await shop.order(order_id))["state"] == "CONFIRMED"


async def test_notifications_of_an_order_that_has_none_yet_are_empty_for_its_owner_only(shop: Shop) -> None:
    order_id = await shop.place(method=None)
    assert await shop.told(order_id) == []
    assert (await shop.ms.call("GET", f"/notifications?order={order_id}", subject="bob")).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ledger/trial-balance"),
        ("GET", "/ledger/export"),
        ("GET", "/payments/cases"),
        ("POST", "/reconciliation"),
        ("GET", "/reconciliation/x"),
        ("GET", "/provider/book"),
    ],
)
async def test_operators_routes_are_closed_to_clients(shop: Shop, method: str, path: str) -> None:
    assert (await shop.ms.call(method, path)).status == 403


async def test_the_customer_in_the_body_is_data_and_grants_nothing(shop: Shop) -> None:
    order_id = (await shop.ms.post("/orders", new_order() | {"customer": "bob"}, key="k"))["id"]
    assert (await shop.ms.call("GET", f"/orders/{order_id}", subject="bob")).status == 404
