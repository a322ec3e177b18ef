"""The methods of the payments contract that operators use: the ledger, cases, reconciliation, the provider's book."""

from __future__ import annotations

from millstream import Caller, Query, Tx
from millstream.contracts import RpcError, Status
from millstream.ids import Ids

from ..contracts.payments import pb
from . import ledger_store
from .cases import CaseRow, close_case
from .cases import list_cases as stored_cases
from .ledger import beancount, beancount_head
from .provider import PaymentProvider
from .reconciling import begin_reconciliation

__all__ = [
    "export_ledger",
    "get_reconciliation",
    "get_trial_balance",
    "list_cases",
    "list_provider_book",
    "resolve_case",
    "start_reconciliation",
]


async def get_trial_balance(_: pb.GetTrialBalanceRequest, caller: Caller, query: Query) -> pb.GetTrialBalanceResponse:
    """Per currency the sums of debit and credit balances."""
    _check(caller)
    sums = await ledger_store.trial_balances(query)
    return pb.GetTrialBalanceResponse(
        balances=[pb.TrialBalance(currency=c, debit=debit, credit=credit) for c, (debit, credit) in sums.items()]
    )


async def export_ledger(request: pb.ExportLedgerRequest, caller: Caller, query: Query) -> pb.ExportLedgerResponse:
    """A page of the journal in beancount's format."""
    _check(caller)
    limit = _limit(request.limit, 1_000, 5_000)
    transfers = await ledger_store.posted_after(query, request.after, limit)
    head = "" if request.after else beancount_head()
    following = transfers[-1].id if len(transfers) == limit else ""
    return pb.ExportLedgerResponse(text=head + beancount(transfers), next=following)


async def list_cases(request: pb.ListCasesRequest, caller: Caller, query: Query) -> pb.ListCasesResponse:
    """Cases, newest first."""
    _check(caller)
    found = await stored_cases(query, closed_too=request.all, limit=_limit(request.limit, 100, 500))
    return pb.ListCasesResponse(cases=[_case(row) for row in found])


async def resolve_case(request: pb.ResolveCaseRequest, caller: Caller, tx: Tx) -> pb.ResolveCaseResponse:
    """Close a case with the words of the one who closes it."""
    _check(caller)
    if not request.resolution.strip():
        raise RpcError(Status.INVALID_ARGUMENT, "resolution must say what was done")
    row = await close_case(tx, request.id, f"{caller.subject}: {request.resolution}")
    if row is None:
        raise RpcError(Status.NOT_FOUND, f"there is no case {request.id}")
    return pb.ResolveCaseResponse(case=_case(row))


async def start_reconciliation(
    _: pb.StartReconciliationRequest, caller: Caller, tx: Tx, ids: Ids
) -> pb.StartReconciliationResponse:
    """Begin a comparison; it goes on behind the reply."""
    _check(caller)
    run_id = ids.new()
    tx.publish(await begin_reconciliation(tx, run_id))
    return pb.StartReconciliationResponse(id=run_id)


async def get_reconciliation(
    request: pb.GetReconciliationRequest, caller: Caller, query: Query
) -> pb.GetReconciliationResponse:
    """How far a comparison has come, and what it found."""
    _check(caller)
    row = await query.fetch_one(
        "SELECT id, state, compared, resolved, cases, started FROM reconciliations WHERE id = ?", request.id
    )
    if row is None:
        raise RpcError(Status.NOT_FOUND, f"there is no reconciliation {request.id}")
    run_id, state, compared, resolved, cases, started = row
    return pb.GetReconciliationResponse(
        id=run_id, state=state, compared=compared, resolved=resolved, cases=cases, started_at_us=started
    )


async def list_provider_book(
    request: pb.ListProviderBookRequest, caller: Caller, provider: PaymentProvider
) -> pb.ListProviderBookResponse:
    """A page of the provider's own book."""
    _check(caller)
    page = await provider.book(request.after, _limit(request.limit, 500, 1_000))
    return pb.ListProviderBookResponse(
        entries=[
            pb.BookEntry(
                key=e.key, ref=e.ref, status=e.answer, amount=e.amount, refunded=e.refunded, currency=e.currency,
                charges=e.charges, calls=e.calls,
            )
            for e in page.entries
        ],
        next=page.next,
    )  # fmt: skip


def _check(caller: Caller) -> None:
    if not caller.may("operator"):
        raise RpcError(Status.PERMISSION_DENIED, "only operators may see this")


def _limit(asked: int, usual: int, most: int) -> int:
    limit = asked or usual
    if not 1 <= limit <= most:
        raise RpcError(Status.INVALID_ARGUMENT, f"limit must be 1 to {most}")
    return limit


def _case(row: CaseRow) -> pb.Case:
    return pb.Case(
        id=row.id,
        kind=row.kind,
        subject=row.subject,
        detail=row.detail,
        open=row.closed_us is None,
        opened_at_us=row.opened_us,
        resolution=row.resolution,
    )
