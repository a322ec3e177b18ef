"""From a payment that begins to one that is settled: every answer about a charge, wherever it comes from, ends here.

A call's answer, the janitor's question, a webhook and reconciliation all go through `apply`, inside the transaction
that also holds the inbox row or the webhook's own row. That is why a crash can neither lose nor double a settlement.
"""

from __future__ import annotations

from millstream import Call, Tx

from ..contracts.order_events import OrderCancelled, OrderPlaced, RefundDue
from ..contracts.payment_events import PaymentFailed, PaymentSucceeded
from . import ledger_store
from .cases import open_case
from .domain import Answer, Outcome, Step, attempts_of, step_after
from .events import ChargeRequested, ProviderAnswered, RefundRequested
from .ledger import ORDERS, PROVIDER
from .provider import Charge, Charged, NoAnswer, PaymentProvider
from .refunding import refund_rest
from .settings import PaymentSettings
from .store import (
    NewPayment,
    StoredPayment,
    add_attempt,
    close_attempt,
    find_payment,
    insert_payment,
    live_payment,
    lock_payment,
    open_attempt,
    payment_states,
    wait_for_attempt,
)

__all__ = ["apply", "begin", "charge", "follow_order", "settle"]

ATTEMPTS_LIMIT = 10
_OUTCOMES = {
    Step.CAPTURE: Outcome.SUCCEEDED,
    Step.FAIL: Outcome.DECLINED,
    Step.GIVE_UP: Outcome.GIVEN_UP,
    Step.CHARGE_AGAIN: Outcome.ERROR,
}


async def follow_order(
    event: OrderPlaced | OrderCancelled | RefundDue, tx: Tx, settings: PaymentSettings
) -> ChargeRequested | RefundRequested | None:
    """Pay an order that came with a method; give back what an order is not delivered for."""
    if isinstance(event, OrderPlaced):
        if event.payment_id is None or event.method is None:
            return None
        new = NewPayment(event.payment_id, event.order_id, event.owner, event.method, event.total, event.currency)
        if not await insert_payment(tx, new):
            await open_case(tx, "second_payment", new.id, f"order {new.order_id} has a payment already")
            return None
        return await begin(tx, new, settings)
    if isinstance(event, RefundDue):
        return await refund_rest(tx, event.payment_id, f"{event.payment_id}-due", settings)
    if await live_payment(tx, event.order_id) is None:
        await tx.execute("INSERT INTO cancelled_orders (order_id) VALUES (?) ON CONFLICT DO NOTHING", event.order_id)
    return None


async def begin(tx: Tx, new: NewPayment, settings: PaymentSettings) -> ChargeRequested:
    """Start the first attempt of a payment that was just inserted, and hold its amount in the ledger."""
    await payment_states.move(tx, new.id, "PROCESSING", why="the charge was requested")
    await add_attempt(tx, new.id, 1, settings.start_ask_us, settings.start_limit_us)
    await ledger_store.hold(tx, new.id, new.currency, PROVIDER, ORDERS, new.amount)
    return ChargeRequested(new.id, new.order_id, 1, new.method, new.amount, new.currency)


async def charge(event: ChargeRequested, call: Call, provider: PaymentProvider) -> ProviderAnswered:
    """Ask the provider for the money. Its key is the payment's id: stricter than the call's own key, because every
    attempt of a payment shares it, so that no two of them can both be charged."""
    wanted = Charge(event.payment_id, event.order_id, event.method, event.amount, event.currency)
    try:
        charged = await provider.charge(wanted)
    except NoAnswer as error:
        charged = Charged(Answer.UNKNOWN, reason=str(error))
    return ProviderAnswered(
        event.payment_id, event.n, call.attempt, charged.answer, charged.ref, charged.reason, charged.amount
    )


async def settle(
    event: ProviderAnswered, tx: Tx, settings: PaymentSettings
) -> list[PaymentSucceeded | PaymentFailed | ChargeRequested]:
    """Apply what a call or a question brought."""
    payment = await find_payment(tx, event.payment_id)
    if payment is None:
        await open_case(tx, "missing_here", event.payment_id, f"the provider says {event.answer} of an unknown payment")
        return []
    charged = Charged(event.answer, event.ref, event.reason, event.amount)
    return await apply(tx, payment, charged, settings, tries=event.tries, source="an answer")


async def apply(
    tx: Tx, payment: StoredPayment, charged: Charged, settings: PaymentSettings, *, source: str, tries: int = 1
) -> list[PaymentSucceeded | PaymentFailed | ChargeRequested]:
    """What is known of a charge becomes what is true of its payment. Returns what to publish.

    source: where the news comes from, for the records.
    """
    # The same news comes by an answer, a webhook and the book: of two at once the second one must see what the first did.
    payment = await lock_payment(tx, payment.id) or payment
    attempt = await open_attempt(tx, payment.id)
    step = step_after(charged.answer, None if attempt is None else attempt.outcome)
    if step is Step.NOTHING:
        return []
    if step is Step.STALE:
        await payment_states.move(tx, payment.id, "PROCESSING", why=f"{source}: {charged.answer}")
        return []
    if step is Step.CHARGE_AGAIN and attempt is not None and attempt.n >= ATTEMPTS_LIMIT:
        step = Step.WAIT  # until the janitor gives up
    if step is Step.WAIT:
        assert attempt is not None
        outcome = Outcome.PENDING if charged.answer is Answer.PENDING else Outcome.UNKNOWN
        await wait_for_attempt(
            tx, payment.id, attempt.n, outcome, settings.ask_after_us, settings.settle_limit_us
        )  # fmt: skip
        return []
    if attempt is not None:
        await close_attempt(tx, payment.id, attempts_of(attempt.n, tries, _OUTCOMES[step]), attempt.n)
        if step is Step.CHARGE_AGAIN:
            again = attempt.n + tries
            await add_attempt(tx, payment.id, again, settings.start_ask_us, settings.start_limit_us)
            return [
                ChargeRequested(payment.id, payment.order_id, again, payment.method, payment.amount, payment.currency)
            ]
    return await _end(tx, payment, charged, step, source)


async def _end(
    tx: Tx, payment: StoredPayment, charged: Charged, step: Step, source: str
) -> list[PaymentSucceeded | PaymentFailed | ChargeRequested]:
    if step is Step.CAPTURE:
        return await _capture(tx, payment, charged, source)
    given_up = step is Step.GIVE_UP
    reason = charged.reason or ("the provider never settled it" if given_up else "declined")
    failed = await payment_states.move(
        tx, payment.id, "FAILED", why=f"{source}: {charged.answer}", silent=("FAILED",),
        change={"reason": reason, "ref": charged.ref, "settled": tx.now_us},
    )  # fmt: skip
    if not failed:
        return []
    await ledger_store.settle(tx, payment.id, post=False)
    if given_up:
        await open_case(tx, "never_settled", payment.id, f"{reason}; it was cancelled at the provider and failed here")
    return [PaymentFailed(payment.order_id, payment.id, payment.owner, reason)]


async def _capture(
    tx: Tx, payment: StoredPayment, charged: Charged, source: str
) -> list[PaymentSucceeded | PaymentFailed | ChargeRequested]:
    if charged.amount is not None and charged.amount != payment.amount:
        # What was really taken must never be booked as something else: a person decides.
        detail = f"asked for {payment.amount} {payment.currency}, the provider took {charged.amount}"
        await open_case(tx, "amount", payment.id, detail)
        return []
    captured = await payment_states.move(
        tx, payment.id, "SUCCESS", why=f"{source}: {charged.answer}", silent=("SUCCESS",),
        change={"captured": payment.amount, "ref": charged.ref, "settled": tx.now_us},
    )  # fmt: skip
    if captured:
        await ledger_store.settle(tx, payment.id, post=True)
        return [PaymentSucceeded(payment.order_id, payment.id, payment.owner, payment.amount, payment.currency)]
    if payment.state == "FAILED":
        await open_case(tx, "charged_after_failure", payment.id, f"{source} says that it was charged as {charged.ref}")
    elif payment.ref != charged.ref:
        await open_case(tx, "duplicate", payment.id, f"charged as {payment.ref} and as {charged.ref}")
    return []
