"""Every fault of the provider ends the payment the right way, and nobody is charged twice or for nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from millstream import Permanent
from millstream.testing.harness import Harness
from millstream_services.payments.provider import Charge, Charged

from .conftest import Shop


async def test_a_declined_payment_fails_the_order_and_another_one_brings_it_back(shop: Shop) -> None:
    order_id = await shop.place("sim_declined")
    await shop.ms.quiet()
    order = await shop.order(order_id)
    assert (order["state"], order["payment"]["state"]) == ("FAILED", "FAILED")
    assert [a["outcome"] for a in (await shop.payment_of(order_id))["attempts"]] == ["declined"]

    await shop.ms.advance("1s")
    await shop.ms.post("/payments", {"order_id": order_id, "method": "sim_ok"}, key="again")
    await shop.ms.advance("1s")

    order = await shop.order(order_id)
    assert [entry["state"] for entry in order["history"]] == ["PENDING", "FAILED", "PENDING", "CONFIRMED"]
    assert order["payment"]["state"] == "SUCCESS"
    assert await shop.told(order_id) == ["order.failed", "order.confirmed"]
    assert await shop.balance() == {"USD": {"debit": 350, "credit": 350}}
    await shop.clean()


async def test_transient_errors_are_tried_again_after_one_and_two_seconds(shop: Shop) -> None:
    order_id = await shop.place("sim_error_then_ok")
    await shop.ms.quiet()
    assert (await shop.order(order_id))["state"] == "PENDING"

    await shop.ms.advance("1s")
    await shop.ms.advance("2s")

    assert (await shop.order(order_id))["state"] == "CONFIRMED"
    attempts = (await shop.payment_of(order_id))["attempts"]
    assert [(a["n"], a["outcome"]) for a in attempts] == [(1, "error"), (2, "error"), (3, "succeeded")]
    assert (await shop.book())[order_id] | {"key": ""} == {
        "key": "", "status": "succeeded", "charges": 1, "calls": 3, "refunded": 0,
    }  # fmt: skip
    await shop.clean()


async def test_an_unanswered_charge_is_unknown_and_not_failed_until_the_janitor_has_asked(shop: Shop) -> None:
    """Shipped elsewhere: a time-out marked FAILED, though the money was taken."""
    order_id = await shop.place("sim_timeout")

    async def unanswered() -> bool:
        return [a["outcome"] for a in (await shop.payment_of(order_id))["attempts"]] == ["unknown"]

    await shop.until(unanswered)
    assert (await shop.payment_of(order_id))["state"] == "PROCESSING"
    assert (await shop.order(order_id))["state"] == "PENDING"
    assert (await shop.book())[order_id]["charges"] == 1

    await shop.until_state(order_id, "CONFIRMED", 5)

    payment = await shop.payment_of(order_id)
    assert (payment["state"], payment["captured"]) == ("SUCCESS", 350)
    assert [a["outcome"] for a in payment["attempts"]] == ["succeeded"]
    assert (await shop.book())[order_id]["charges"] == 1
    await shop.clean()


async def test_a_late_settlement_arrives_by_webhook(shop: Shop) -> None:
    order_id = await shop.place("sim_late")
    await shop.ms.quiet()
    assert [a["outcome"] for a in (await shop.payment_of(order_id))["attempts"]] == ["pending"]
    await shop.deliver()
    assert (await shop.order(order_id))["state"] == "PENDING"

    await shop.ms.clock.advance(2.5)
    await shop.deliver()
    await shop.ms.quiet()

    assert (await shop.order(order_id))["state"] == "CONFIRMED"
    assert await shop.told(order_id) == ["order.confirmed"]
    await shop.clean()


@pytest.mark.everywhere
async def test_webhooks_that_come_twice_and_in_the_wrong_order_settle_a_payment_once(shop: Shop) -> None:
    order_id = await shop.place("sim_twice")
    await shop.ms.quiet()

    await shop.ms.clock.advance(0.9)
    await shop.deliver()
    await shop.ms.quiet()

    kinds = [b'"charge.succeeded"' if b"succeeded" in body else b'"charge.pending"' for body, _ in shop.sent]
    assert kinds == [b'"charge.succeeded"', b'"charge.pending"', b'"charge.succeeded"', b'"charge.pending"']
    payment = await shop.payment_of(order_id)
    assert (payment["state"], payment["captured"]) == ("SUCCESS", 350)
    assert await shop.told(order_id) == ["order.confirmed"]
    assert await shop.balance() == {"USD": {"debit": 350, "credit": 350}}
    assert await shop.ms.rows("payments", "SELECT COUNT(*) FROM webhooks") == [(2,)]
    # The late "pending" asked to go back from SUCCESS: refused, and on record.
    assert await shop.ms.rows("payments", "SELECT was, wanted FROM refusals") == [("SUCCESS", "PROCESSING")]
    await shop.clean()


async def test_a_charge_that_never_settles_is_cancelled_failed_and_shown_to_an_operator(shop: Shop) -> None:
    order_id = await shop.place("sim_never")
    await shop.ms.quiet()
    for _ in range(40):
        await shop.ms.advance("1s")

    payment = await shop.payment_of(order_id)
    assert (payment["state"], payment["captured"]) == ("FAILED", 0)
    assert [a["outcome"] for a in payment["attempts"]] == ["given_up"]
    assert (await shop.order(order_id))["state"] == "FAILED"
    assert (await shop.book())[order_id]["status"] == "cancelled"
    [case] = await shop.operator("/payments/cases")
    assert (case["kind"], case["subject"], case["open"]) == ("never_settled", payment["id"], True)
    assert await shop.balance() == {}
    assert await shop.told(order_id) == ["order.failed"]


async def test_a_charge_that_only_makes_errors_is_dead_lettered_and_ends_all_the_same(shop: Shop) -> None:
    order_id = await shop.place("sim_ok")
    shop.provider.charge = _unavailable  # type: ignore[method-assign] - the provider is down for this test
    await shop.ms.quiet()
    for _ in range(10):
        await shop.ms.advance("2s")
    assert [(name, reason) for name, _, reason, _ in await shop.ms.dead_letters("payments")] == [("charge", "failed")]
    assert (await shop.order(order_id))["state"] == "PENDING"

    for _ in range(4):
        await shop.ms.advance("5m")

    assert (await shop.order(order_id))["state"] == "FAILED"
    assert (await shop.book())[""]["status"] == "cancelled"
    [case] = await shop.operator("/payments/cases")
    assert case["kind"] == "never_settled"


async def test_a_charge_whose_process_died_over_it_is_asked_about(shop: Shop) -> None:
    charge = shop.provider.charge

    async def die(wanted: Charge) -> Charged:
        await charge(wanted)
        raise Permanent("the process dies with the answer in hand, until its message is a dead letter")

    shop.provider.charge = die  # type: ignore[method-assign] - the death is simulated at the port
    order_id = await shop.place("sim_ok")
    await shop.ms.quiet()
    assert (await shop.book())[order_id]["charges"] == 1
    assert len(await shop.ms.dead_letters("payments")) == 1

    await shop.until_state(order_id, "CONFIRMED", 70)
    assert (await shop.book())[order_id]["charges"] == 1
    assert await shop.operator("/payments/cases") == []


async def test_a_charge_that_never_arrived_is_made_again_under_the_same_key(shop: Shop) -> None:
    order_id = await shop.place("sim_ok")
    charge = shop.provider.charge
    shop.provider.charge = _lost  # type: ignore[method-assign] - the request is lost on its way
    await shop.ms.quiet()
    shop.provider.charge = charge
    for _ in range(3):
        await shop.ms.advance("1s")

    payment = await shop.payment_of(order_id)
    assert payment["state"] == "SUCCESS"
    assert [(a["n"], a["outcome"]) for a in payment["attempts"]] == [(1, "error"), (2, "succeeded")]
    assert (await shop.book())[order_id]["charges"] == 1
    await shop.clean()


@pytest.mark.parametrize("method", ["sim_ok", "sim_error_then_ok", "sim_timeout", "sim_late", "sim_twice"])
async def test_a_restart_at_any_moment_charges_once(start: Callable[..., Harness], method: str) -> None:
    silent_at_once = {"payments": {"answer_timeout": 0}}
    async with start(settings=silent_at_once) as ms:
        order_id = await Shop(ms).place(method)
    for pause in (0.0, 0.1, 0.3, 0.5, 1.0, 1.0):
        async with start(settings=silent_at_once) as ms:
            shop = Shop(ms)
            await ms.clock.advance(pause)
            await shop.deliver()
    async with start(settings=silent_at_once) as ms:
        shop = Shop(ms)
        await shop.until_state(order_id, "CONFIRMED")
        await ms.advance("1s")
        assert (await shop.book())[order_id]["charges"] == 1
        assert await shop.told(order_id) == ["order.confirmed"]
        await shop.clean()


async def _unavailable(charge: object) -> object:
    from millstream_services.payments.provider import ProviderUnavailable

    raise ProviderUnavailable("the provider is down")


async def _lost(charge: object) -> object:
    from millstream_services.payments.provider import NoAnswer

    raise NoAnswer("the request was lost")
