"""The janitor: finds what nobody answered for, and asks until somebody does or time is up."""

from __future__ import annotations

from millstream import Transient, Tx

from .cases import open_case
from .domain import Answer, ask_delay
from .events import AskRequested, ProviderAnswered, RefundRequested
from .provider import Charged, PaymentProvider
from .settings import PaymentSettings
from .store import due_attempts, due_refunds, find_payment, postpone_attempt, postpone_refund

__all__ = ["ask", "look"]

BATCH = 200
"""Questions of one look. Bounded so that a provider that comes back is not drowned by what piled up."""
REFUND_LIMIT = 5
"""How often a refund is asked for anew before a person hears of it."""
WEBHOOK_DAYS = 30


async def look(tx: Tx, settings: PaymentSettings) -> list[AskRequested | RefundRequested]:
    """Every second: ask about the charges that are due for it, and ask for overdue refunds again."""
    found: list[AskRequested | RefundRequested] = []
    for payment_id, n, asked, give_up_at in await due_attempts(tx, BATCH):
        last = tx.now_us >= give_up_at
        await postpone_attempt(tx, payment_id, n, _next(tx.now_us, asked, give_up_at, settings))
        found.append(AskRequested(payment_id, n, last))
    for refund in await due_refunds(tx, BATCH):
        await postpone_refund(tx, refund.id, tx.now_us + ask_delay(refund.asked, settings.start_limit_us))
        payment = await find_payment(tx, refund.payment_id)
        if payment is None:
            continue
        found.append(RefundRequested(refund.id, payment.id, payment.ref, refund.amount, payment.currency))
        if refund.asked >= REFUND_LIMIT:
            await open_case(tx, "refund_stuck", refund.id, f"asked for {refund.asked} times without an answer")
    await _forget_webhooks(tx)
    return found


async def ask(event: AskRequested, provider: PaymentProvider) -> ProviderAnswered | None:
    """Ask what became of a charge; the last time, cancel it, so that giving up can never mean charged after all."""
    try:
        charged = await (provider.cancel(event.payment_id) if event.last else provider.ask(event.payment_id))
    except Transient:
        return None  # the next look asks again
    if charged.answer is Answer.NOT_FOUND and event.last:
        charged = Charged(Answer.CANCELLED, reason="it never reached the provider")
    return ProviderAnswered(event.payment_id, event.n, 1, charged.answer, charged.ref, charged.reason, charged.amount)


def _next(now_us: int, asked: int, give_up_at: int, settings: PaymentSettings) -> int:
    """The next question, at the latest when time is up; behind that, as often as the delay says."""
    due = now_us + ask_delay(asked, settings.ask_after_us)
    return min(due, give_up_at) if give_up_at > now_us else due


async def _forget_webhooks(tx: Tx) -> None:
    # Far beyond the tolerance of a signature's time, so a repeat of a forgotten one is refused anyway.
    await tx.execute(
        "DELETE FROM webhooks WHERE id IN (SELECT id FROM webhooks WHERE at < ? ORDER BY at LIMIT 500)",
        tx.now_us - WEBHOOK_DAYS * 86_400_000_000,
    )
