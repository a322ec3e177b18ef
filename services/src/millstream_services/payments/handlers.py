"""The methods of the payments contract that clients use: creating, reading, refunding, and webhooks."""

from __future__ import annotations

from millstream import Caller, Query, Tx
from millstream.contracts import RpcError, Status
from millstream.ids import Ids

from ..contracts.currencies import DIGITS
from ..contracts.methods import METHODS
from ..contracts.payment_events import PaymentOpened
from ..contracts.payments import pb, state_number
from .cases import open_case
from .charging import apply, begin
from .domain import refundable
from .provider import BadSignature, PaymentProvider
from .refunding import begin_refund
from .settings import PaymentSettings
from .store import NewPayment, StoredPayment, attempts_of_payment, find_payment, insert_payment, live_payment

__all__ = ["create_payment", "get_payment", "receive_webhook", "refund_payment"]


async def create_payment(
    request: pb.CreatePaymentRequest, tx: Tx, ids: Ids, settings: PaymentSettings
) -> pb.CreatePaymentResponse:
    """Open a payment for an order that waits for one, or whose last one failed."""
    if request.method not in METHODS:
        raise _invalid("method", f"must be one of {', '.join(sorted(METHODS))}")
    if request.amount < 1 or request.currency not in DIGITS:
        raise _invalid("amount", "must be above 0, in an ISO 4217 currency")
    if await tx.fetch_one("SELECT 1 FROM cancelled_orders WHERE order_id = ?", request.order_id) is not None:
        raise RpcError(Status.FAILED_PRECONDITION, "the order was cancelled", problem="order-cancelled")
    new = NewPayment(ids.new(), request.order_id, request.owner, request.method, request.amount, request.currency)
    if not await insert_payment(tx, new):
        live = await live_payment(tx, request.order_id)
        what = "another payment" if live is None else f"payment {live.id}, which is {live.state}"
        raise RpcError(Status.FAILED_PRECONDITION, f"the order has {what}", problem="payment-exists")
    charge = await begin(tx, new, settings)
    tx.publish(PaymentOpened(new.order_id, new.id, new.amount, new.currency))
    tx.publish(charge)
    created = await find_payment(tx, new.id)
    assert created is not None
    return pb.CreatePaymentResponse(payment=await _message(tx, created))


async def get_payment(request: pb.GetPaymentRequest, caller: Caller, query: Query) -> pb.GetPaymentResponse:
    """One payment with its attempts."""
    return pb.GetPaymentResponse(payment=await _message(query, await _own(query, request.id, caller)))


async def refund_payment(
    request: pb.RefundPaymentRequest, caller: Caller, tx: Tx, ids: Ids, settings: PaymentSettings
) -> pb.RefundPaymentResponse:
    """Promise to give back an amount; the provider is asked behind the reply."""
    payment = await _own(tx, request.payment_id, caller)
    if request.amount < 1:
        raise _invalid("amount", "must be at least 1")
    refund_id = ids.new()
    refund = await begin_refund(tx, payment, refund_id, request.amount, settings)
    if refund is None:
        left = refundable(payment.captured, payment.reserved)
        raise _invalid("amount", f"must be at most {left}, which is what was captured and not yet refunded")
    tx.publish(refund)
    return pb.RefundPaymentResponse(id=refund_id, payment_id=payment.id, amount=request.amount, state="REQUESTED")


async def receive_webhook(
    request: pb.ReceiveWebhookRequest, tx: Tx, provider: PaymentProvider, settings: PaymentSettings
) -> pb.ReceiveWebhookResponse:
    """Apply what the provider tells by itself. Its event's row, the payment's change and what is published about it
    are one transaction: a crash leaves all of it undone, and the provider sends it again."""
    try:
        event = provider.read_webhook(request.body, request.signature, tx.now_us)
    except BadSignature as error:
        raise RpcError(Status.UNAUTHENTICATED, str(error), problem="bad-signature") from error
    if event is None:
        return pb.ReceiveWebhookResponse(fresh=False)
    fresh = await tx.execute(
        "INSERT INTO webhooks (id, at) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", event.id, tx.now_us
    )
    if not fresh:
        return pb.ReceiveWebhookResponse(fresh=False)
    payment = await find_payment(tx, event.key)
    if payment is None:
        await open_case(tx, "missing_here", event.key, f"webhook {event.id} says {event.charged.answer}")
        return pb.ReceiveWebhookResponse(fresh=True)
    for published in await apply(tx, payment, event.charged, settings, source=f"webhook {event.id}"):
        tx.publish(published)
    return pb.ReceiveWebhookResponse(fresh=True)


async def _own(reads: Tx | Query, payment_id: str, caller: Caller) -> StoredPayment:
    payment = await find_payment(reads, payment_id)
    if payment is None or (payment.owner != caller.subject and not caller.may("operator")):
        # The same words for both: an id must not tell a stranger that it exists.
        raise RpcError(Status.NOT_FOUND, f"there is no payment {payment_id}")
    return payment


async def _message(reads: Tx | Query, payment: StoredPayment) -> pb.Payment:
    return pb.Payment(
        id=payment.id,
        order_id=payment.order_id,
        state=state_number(payment.state),
        amount=payment.amount,
        captured=payment.captured,
        refunded=payment.refunded,
        attempts=[
            pb.PaymentAttempt(n=n, outcome=outcome, at_us=at)
            for n, outcome, at in await attempts_of_payment(reads, payment.id)
        ],
        currency=payment.currency,
        owner=payment.owner,
    )


def _invalid(at: str, message: str) -> RpcError:
    return RpcError(
        Status.INVALID_ARGUMENT, f"{at} {message}", problem="invalid-payment", errors=({"at": at, "message": message},)
    )
