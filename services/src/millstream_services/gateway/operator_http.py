"""The routes that operators use: the ledger, cases, reconciliation and the provider's book."""

from __future__ import annotations

from typing import Any

from millstream import Caller
from millstream.http import Accepted, Reply
from millstream.message import format_time

from ..contracts.payments import Payments, pb
from .bodies import Balance, Case, Reconciliation, Resolution, case_body

__all__ = [
    "export_ledger",
    "get_provider_book",
    "get_reconciliation",
    "list_cases",
    "resolve_case",
    "start_reconciliation",
    "trial_balance",
]


async def trial_balance(caller: Caller, payments: Payments) -> dict[str, Balance]:
    """Per currency the sums of debit and credit balances; they are equal."""
    found = await payments.get_trial_balance(pb.GetTrialBalanceRequest(), caller=caller)
    return {balance.currency: Balance(balance.debit, balance.credit) for balance in found.balances}


async def export_ledger(
    caller: Caller, payments: Payments, after: str = "", limit: int = 1_000
) -> Reply[dict[str, str]]:
    """A page of the journal as beancount text; `next` continues it. Pages joined in order are one file."""
    found = await payments.export_ledger(pb.ExportLedgerRequest(after=after, limit=limit), caller=caller)
    return Reply({"text": found.text, "next": found.next})


async def list_cases(caller: Caller, payments: Payments, all: bool = False, limit: int = 100) -> list[Case]:  # noqa: A002 - the query parameter's name
    """Open cases, newest first; `all=true` shows closed ones too."""
    found = await payments.list_cases(pb.ListCasesRequest(all=all, limit=limit), caller=caller)
    return [case_body(case) for case in found.cases]


async def resolve_case(case_id: int, body: Resolution, caller: Caller, payments: Payments) -> Case:
    """Close a case."""
    request = pb.ResolveCaseRequest(id=case_id, resolution=body.resolution)
    return case_body((await payments.resolve_case(request, caller=caller)).case)


async def start_reconciliation(caller: Caller, payments: Payments) -> Accepted[dict[str, str]]:
    """Compare our payments with the provider's book, behind the reply."""
    started = await payments.start_reconciliation(pb.StartReconciliationRequest(), caller=caller)
    return Accepted({"id": started.id}, location=f"/reconciliation/{started.id}")


async def get_reconciliation(run_id: str, caller: Caller, payments: Payments) -> Reconciliation:
    """How far a comparison has come."""
    run = await payments.get_reconciliation(pb.GetReconciliationRequest(id=run_id), caller=caller)
    return Reconciliation(run.id, run.state, run.compared, run.resolved, run.cases, format_time(run.started_at_us))


async def get_provider_book(caller: Caller, payments: Payments, after: str = "", limit: int = 500) -> dict[str, Any]:
    """A page of the provider's own book: who was charged, and how often."""
    found = await payments.list_provider_book(pb.ListProviderBookRequest(after=after, limit=limit), caller=caller)
    entries = [
        {
            "key": entry.key,
            "ref": entry.ref,
            "status": entry.status,
            "amount": entry.amount,
            "refunded": entry.refunded,
            "currency": entry.currency,
            "charges": entry.charges,
            "calls": entry.calls,
        }
        for entry in found.entries
    ]
    return {"entries": entries, "next": found.next}
