"""The payments service at a glance."""

from __future__ import annotations

from millstream import Retry, Service
from millstream.ids import Ids

from ..contracts.order_events import OrderCancelled, OrderPlaced, RefundDue
from ..contracts.payment_events import PaymentFailed, PaymentOpened, PaymentSucceeded
from ..contracts.payments import Payments
from . import charging, handlers, janitor, operator_handlers, reconciling, refunding, resources
from .events import (
    AskRequested,
    BookRead,
    BookRequested,
    ChargeRequested,
    ProviderAnswered,
    RefundAnswered,
    RefundRequested,
)
from .provider import PaymentProvider
from .settings import PaymentSettings

__all__ = ["payments"]

payments = Service("payments", migrations="sql")

payments.resource(Ids)(resources.make_ids)
payments.resource(PaymentSettings)(resources.make_settings)
payments.resource(PaymentProvider)(resources.make_provider)

# Errors that the provider names are tried again after about 1, 2 and 4 seconds. What comes after that is a dead letter
# that an operator can redrive; the janitor sees to it that the payment ends either way. The lane goes on: all attempts
# of a payment share one key at the provider.
PROVIDER_RETRY = Retry(attempts=4, first="1s", factor=2.0, cap="30s")

# -- charges: order → ChargeRequested → the provider → ProviderAnswered → settled
payments.on(OrderPlaced, OrderCancelled, RefundDue, name="follow-order")(charging.follow_order)
payments.effect(
    ChargeRequested, name="charge", retry=PROVIDER_RETRY, after_dead_letter="go_on", timeout="10s", concurrency=128
)(charging.charge)
payments.on(ProviderAnswered, name="settle")(charging.settle)

# -- what nobody answered for
payments.every("1s", name="janitor")(janitor.look)
payments.effect(AskRequested, name="ask-provider", retry=PROVIDER_RETRY, after_dead_letter="go_on", timeout="10s")(
    janitor.ask
)

# -- refunds
payments.effect(RefundRequested, name="refund", retry=Retry(attempts=8), after_dead_letter="go_on", timeout="10s")(
    refunding.refund
)
payments.on(RefundAnswered, name="settle-refund")(refunding.apply_refund)

# -- reconciliation
payments.effect(BookRequested, name="read-book", retry=PROVIDER_RETRY, timeout="10s")(reconciling.read_book)
payments.on(BookRead, name="compare-book")(reconciling.compare)

payments.rpc(Payments.create_payment, idempotent=True)(handlers.create_payment)
payments.rpc(Payments.get_payment)(handlers.get_payment)
payments.rpc(Payments.refund_payment, idempotent=True)(handlers.refund_payment)
payments.rpc(Payments.receive_webhook)(handlers.receive_webhook)
payments.rpc(Payments.get_trial_balance)(operator_handlers.get_trial_balance)
payments.rpc(Payments.export_ledger)(operator_handlers.export_ledger)
payments.rpc(Payments.list_cases)(operator_handlers.list_cases)
payments.rpc(Payments.resolve_case)(operator_handlers.resolve_case)
payments.rpc(Payments.start_reconciliation)(operator_handlers.start_reconciliation)
payments.rpc(Payments.get_reconciliation)(operator_handlers.get_reconciliation)
payments.rpc(Payments.list_provider_book)(operator_handlers.list_provider_book)

payments.emits(PaymentOpened, PaymentSucceeded, PaymentFailed)
