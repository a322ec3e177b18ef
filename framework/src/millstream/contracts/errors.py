"""Which status a failed call has: one table, the same in process and over gRPC.

A status says what the caller can do. `UNAVAILABLE` and `ABORTED` may be tried again as they are; `RESOURCE_EXHAUSTED`
later and slower; the others need another request, another caller or a person. What is no error of ours is `INTERNAL`,
and tells the caller nothing else: what it was stands in the log of the service that failed.
"""

from __future__ import annotations

from ..delivery.idempotency import KeyInUse, KeyMissing, KeyReused
from ..errors import (
    Busy,
    Conflict,
    Misconfigured,
    Mismatch,
    RecordRefused,
    Refused,
    StoreUnavailable,
    TransportUnavailable,
    Undecodable,
)
from ..resilience.deadline import DeadlineExceeded
from ..service.contract import RpcError, Status

__all__ = ["FINAL_STATUSES", "SERVER_FAULTS", "rpc_error_of"]

RETRY_AFTER_SECONDS = 1.0

_TABLE: tuple[tuple[type[BaseException], int, str, bool], ...] = (
    # error, status, problem, whether its own words are for the caller; the first that matches counts
    (KeyMissing, Status.INVALID_ARGUMENT, "idempotency-key-missing", True),
    (KeyReused, Status.INVALID_ARGUMENT, "idempotency-key-reused", True),
    (KeyInUse, Status.ABORTED, "idempotency-key-in-use", True),
    (Mismatch, Status.FAILED_PRECONDITION, "refused", False),
    (Refused, Status.FAILED_PRECONDITION, "refused", True),
    (Undecodable, Status.INVALID_ARGUMENT, "undecodable", True),
    (RecordRefused, Status.INVALID_ARGUMENT, "record-refused", True),
    (Conflict, Status.ABORTED, "conflict", False),
    (Busy, Status.UNAVAILABLE, "busy", True),
    (StoreUnavailable, Status.UNAVAILABLE, "store-unavailable", False),
    (TransportUnavailable, Status.UNAVAILABLE, "transport-unavailable", False),
    (DeadlineExceeded, Status.DEADLINE_EXCEEDED, "deadline-exceeded", False),
    (TimeoutError, Status.DEADLINE_EXCEEDED, "deadline-exceeded", False),
    (Misconfigured, Status.INTERNAL, "", False),
)

_WORDS = {
    "refused": "the present state does not allow this",
    "conflict": "it collides with what is stored already",
    "store-unavailable": "the service's database is away",
    "transport-unavailable": "the service's event log is away",
    "deadline-exceeded": "the work did not finish in time; whether it was done is unknown",
}
_RETRY = (KeyInUse, Conflict, Busy, StoreUnavailable, TransportUnavailable)

FINAL_STATUSES = frozenset(
    {
        Status.OK,
        Status.INVALID_ARGUMENT,
        Status.NOT_FOUND,
        Status.ALREADY_EXISTS,
        Status.PERMISSION_DENIED,
        Status.FAILED_PRECONDITION,
    }
)
"""Statuses that a repeat of the same request would get again: those that an idempotent method stores."""

SERVER_FAULTS = frozenset(
    {Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.UNIMPLEMENTED, Status.INTERNAL, Status.UNAVAILABLE}
)
"""Statuses that mark the span of a serving method as failed (OpenTelemetry semantic conventions, gRPC)."""


def rpc_error_of(error: BaseException) -> RpcError:
    """The refusal that a caller sees for whatever a method raised."""
    if isinstance(error, RpcError):
        return error
    for kind, status, problem, own_words in _TABLE:
        if isinstance(error, kind):
            return RpcError(
                status,
                str(error) if own_words else _WORDS.get(problem, "internal error"),
                problem=problem,
                retry_after=RETRY_AFTER_SECONDS if isinstance(error, _RETRY) else None,
            )
    return RpcError(Status.INTERNAL, "internal error")
