"""Incoming webhooks: signed, recent, once, and one transaction with what they cause."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from millstream.testing.asgi import Answer
from millstream_services.payments import ledger_store
from millstream_services.payments.signature import sign
from millstream_services.payments.simulated.provider import Webhook

from .conftest import Shop


async def send(shop: Shop, body: bytes, signature: str) -> Answer:
    return await shop.ms.call("POST", "/webhooks/provider", body, headers={"webhook-signature": signature})


async def pending(shop: Shop) -> tuple[str, bytes, str]:
    """An order whose charge is pending, and the webhook that will settle it, signed."""
    order_id = await shop.place("sim_late")
    await shop.ms.quiet()
    row = await shop.provider.book_store.find((await shop.order(order_id))["payment"]["id"])
    assert row is not None
    body = shop.provider.webhook("ev_1", "succeeded", row)
    return order_id, body, sign(body, shop.provider.secrets, shop.ms.clock.now_us())


async def test_a_signed_webhook_settles_once_however_often_it_comes(shop: Shop) -> None:
    order_id, body, signature = await pending(shop)

    answers = [await send(shop, body, signature) for _ in range(5)]
    await shop.ms.quiet()

    assert [a.json() for a in answers] == [{"fresh": True}] + [{"fresh": False}] * 4
    assert (await shop.order(order_id))["state"] == "CONFIRMED"
    assert await shop.balance() == {"USD": {"debit": 350, "credit": 350}}


@pytest.mark.parametrize(
    "forge",
    [
        lambda body, secrets, now: (body + b" ", sign(body, secrets, now)),
        lambda body, secrets, now: (body, sign(body, [b"another secret"], now)),
        lambda body, secrets, now: (body, sign(body, secrets, now - 301_000_000)),
        lambda body, secrets, now: (body, sign(body, secrets, now + 301_000_000)),
        lambda body, secrets, now: (body, sign(body, secrets, now).replace("t=", "t=1")),
        lambda body, secrets, now: (body, "v1=00"),
        lambda body, secrets, now: (body, ""),
        lambda body, secrets, now: (body, "t=" + "9" * 400 + ",v1=é"),
    ],
)
async def test_what_the_provider_did_not_sign_just_now_is_refused(
    shop: Shop, forge: Callable[[bytes, tuple[bytes, ...], int], tuple[bytes, str]]
) -> None:
    order_id, body, _ = await pending(shop)

    forged, signature = forge(body, shop.provider.secrets, shop.ms.clock.now_us())
    answer = await shop.ms.call(
        "POST", "/webhooks/provider", forged, headers={"webhook-signature": signature.encode().decode("latin-1")}
    )

    assert (answer.status, answer.json()["type"]) == (401, "/problems/bad-signature")
    await shop.ms.quiet()
    assert (await shop.order(order_id))["state"] == "PENDING"
    assert await shop.ms.rows("payments", "SELECT COUNT(*) FROM webhooks") == [(0,)]


async def test_a_webhook_without_a_signature_is_refused(shop: Shop) -> None:
    _, body, _ = await pending(shop)
    assert (await shop.ms.call("POST", "/webhooks/provider", body)).status == 401


async def test_a_rotated_secret_is_accepted_beside_the_new_one(shop: Shop) -> None:
    order_id, body, _ = await pending(shop)
    shop.provider.secrets = (b"new", *shop.provider.secrets)
    for secret in shop.provider.secrets:
        assert (await send(shop, body, sign(body, [secret], shop.ms.clock.now_us()))).status == 200
    await shop.ms.quiet()
    assert (await shop.order(order_id))["state"] == "CONFIRMED"


async def test_a_crash_while_a_webhook_is_applied_loses_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped elsewhere: the dedupe row, the status and the outbox in separate transactions. A crash between them left
    the dedupe row behind, so that the provider's next delivery was dropped and the confirmation lost for good."""
    order_id, body, signature = await pending(shop)

    async def crash(*_: object, **__: object) -> None:
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_store, "settle", crash)
        assert (await send(shop, body, signature)).status == 500
    assert await shop.ms.rows("payments", "SELECT COUNT(*) FROM webhooks") == [(0,)]
    assert (await shop.payment_of(order_id))["state"] == "PROCESSING"

    assert (await send(shop, body, signature)).json() == {"fresh": True}
    await shop.ms.quiet()
    assert (await shop.order(order_id))["state"] == "CONFIRMED"
    assert await shop.told(order_id) == ["order.confirmed"]
    await shop.clean()


async def test_a_webhook_about_an_unknown_payment_opens_a_case(shop: Shop) -> None:
    body = msgspec.json.encode(Webhook("ev_9", "charge.succeeded", "nobody", "ch_9", 5))
    answer = await send(shop, body, sign(body, shop.provider.secrets, shop.ms.clock.now_us()))
    assert answer.status == 200
    [case] = await shop.operator("/payments/cases")
    assert (case["kind"], case["subject"]) == ("missing_here", "nobody")


async def test_a_webhook_of_an_unknown_kind_is_taken_and_ignored(shop: Shop) -> None:
    for body in (msgspec.json.encode(Webhook("ev_9", "payout.paid", "x", "y", 5)), b'{"another": "shape"}'):
        answer = await send(shop, body, sign(body, shop.provider.secrets, shop.ms.clock.now_us()))
        assert (answer.status, answer.json()) == (200, {"fresh": False})


async def test_a_webhook_that_says_another_amount_books_nothing_and_opens_a_case(shop: Shop) -> None:
    order_id, _, _ = await pending(shop)
    key = (await shop.order(order_id))["payment"]["id"]
    body = msgspec.json.encode(Webhook("ev_1", "charge.succeeded", key, "ch_1", 349))
    await send(shop, body, sign(body, shop.provider.secrets, shop.ms.clock.now_us()))
    await shop.ms.quiet()
    assert (await shop.payment_of(order_id))["captured"] == 0
    assert [case["kind"] for case in await shop.operator("/payments/cases")] == ["amount"]


async def test_a_success_after_the_payment_was_given_up_is_refused_and_shown(shop: Shop) -> None:
    order_id = await shop.place("sim_declined")
    await shop.ms.quiet()
    key = (await shop.order(order_id))["payment"]["id"]
    body = msgspec.json.encode(Webhook("ev_1", "charge.succeeded", key, "ch_1", 350))
    await send(shop, body, sign(body, shop.provider.secrets, shop.ms.clock.now_us()))
    await shop.ms.quiet()
    assert (await shop.order(order_id))["state"] == "FAILED"
    assert await shop.ms.rows("payments", "SELECT was, wanted FROM refusals") == [("FAILED", "SUCCESS")]
    assert [case["kind"] for case in await shop.operator("/payments/cases")] == ["charged_after_failure"]
