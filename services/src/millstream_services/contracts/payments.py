"""The calls of the payments service."""

from __future__ import annotations

from typing import cast

from millstream.contracts import Contract, rpc

from .gen.payments.v1 import payments_pb2 as pb

__all__ = ["Payments", "pb", "state_name", "state_number"]

_PREFIX = "PAYMENT_STATE_"
_NAMES = {number: name.removeprefix(_PREFIX) for name, number in pb.PaymentState.items()}
_NUMBERS = {name: cast(pb.PaymentState, number) for number, name in _NAMES.items()}


class Payments(Contract, service="millstream.payments.v1.PaymentsService"):
    """A client of the payments service; see proto/millstream/payments/v1/payments.proto."""

    create_payment = rpc("CreatePayment", pb.CreatePaymentRequest, pb.CreatePaymentResponse)
    get_payment = rpc("GetPayment", pb.GetPaymentRequest, pb.GetPaymentResponse)
    refund_payment = rpc("RefundPayment", pb.RefundPaymentRequest, pb.RefundPaymentResponse)
    receive_webhook = rpc("ReceiveWebhook", pb.ReceiveWebhookRequest, pb.ReceiveWebhookResponse)
    get_trial_balance = rpc("GetTrialBalance", pb.GetTrialBalanceRequest, pb.GetTrialBalanceResponse)
    export_ledger = rpc("ExportLedger", pb.ExportLedgerRequest, pb.ExportLedgerResponse)
    list_cases = rpc("ListCases", pb.ListCasesRequest, pb.ListCasesResponse)
    resolve_case = rpc("ResolveCase", pb.ResolveCaseRequest, pb.ResolveCaseResponse)
    start_reconciliation = rpc("StartReconciliation", pb.StartReconciliationRequest, pb.StartReconciliationResponse)
    list_provider_book = rpc("ListProviderBook", pb.ListProviderBookRequest, pb.ListProviderBookResponse)
    get_reconciliation = rpc("GetReconciliation", pb.GetReconciliationRequest, pb.GetReconciliationResponse)


def state_name(number: int) -> str:
    """`SUCCESS` for PAYMENT_STATE_SUCCESS; the number as text for one that this version does not know."""
    return _NAMES.get(number) or str(number)


def state_number(name: str) -> pb.PaymentState:
    """PAYMENT_STATE_SUCCESS for `SUCCESS`; PAYMENT_STATE_UNSPECIFIED for what is no state."""
    return _NUMBERS.get(name, pb.PAYMENT_STATE_UNSPECIFIED)
