"""Errors at the HTTP edge: RFC 9457 `application/problem+json`, and one table from errors to statuses.

A handler refuses by raising `Problem`, `Refused` (409, or what a subclass says in `http_status`) or, where it passes
on what another service said, by letting that service's `RpcError` through. An error that is none of ours is a 500
without a word about its inside; the log has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil

import msgspec

from ..contracts.errors import rpc_error_of
from ..delivery.idempotency import KeyInUse, KeyMissing, KeyReused
from ..errors import (
    Busy,
    Conflict,
    Permanent,
    RecordRefused,
    Refused,
    StoreUnavailable,
    TransportUnavailable,
    Undecodable,
)
from ..resilience.deadline import DeadlineExceeded
from ..service.contract import RpcError, Status

__all__ = ["PROBLEM_JSON", "Place", "Problem", "ProblemDocument", "problem_of"]

PROBLEM_JSON = b"application/problem+json"

_BY_ERROR: tuple[tuple[type[BaseException], int], ...] = (
    # The first that matches counts. What an error says to a caller, and its name, are those of `contracts.errors`.
    (KeyMissing, 400),
    (KeyReused, 422),
    (KeyInUse, 409),
    (Refused, 409),
    (Conflict, 409),
    (Undecodable, 422),
    (RecordRefused, 422),
    (Busy, 503),
    (StoreUnavailable, 503),
    (TransportUnavailable, 503),
    (DeadlineExceeded, 504),
    (TimeoutError, 504),
)

_BY_STATUS: Mapping[int, int] = {
    Status.CANCELLED: 503,
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 422,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 409,
    Status.ABORTED: 409,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.UNAUTHENTICATED: 401,
}
_BY_PROBLEM: Mapping[str, int] = {"idempotency-key-missing": 400}
"""Problems that HTTP tells apart more finely than gRPC does."""


class Place(msgspec.Struct, frozen=True):
    """One place of a request that is wrong: `lines[3].quantity`, and what it should be."""

    at: str
    message: str


class ProblemDocument(msgspec.Struct, frozen=True):
    """The body of a problem (RFC 9457 §3), with the extension member `errors`.

    `type` is `about:blank` when the status says it all, else a path of this server that names the kind of problem.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: list[Place] | msgspec.UnsetType = msgspec.UNSET


class Problem(Permanent):
    """A refusal with an HTTP status.

    detail: for the person who reads it. problem: the kind, for programs (`out-of-stock`), or "" where the status says
    it all. errors: places of the request. headers: added to the reply, names in lower case. retry_after: seconds.
    """

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        problem: str = "",
        errors: Sequence[Place] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail or _title(status))
        self.status = status
        self.detail = detail or _title(status)
        self.problem = problem
        self.errors = tuple(errors)
        self.headers: dict[str, str] = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, ceil(retry_after)))

    def body(self) -> bytes:
        """The document's bytes."""
        return _encode(
            ProblemDocument(
                type=_type(self.problem),
                title=_words(self.problem) or _title(self.status),
                status=self.status,
                detail=self.detail,
                errors=list(self.errors) or msgspec.UNSET,
            )
        )


def problem_of(error: BaseException) -> Problem:
    """The problem that a client sees for whatever was raised."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RpcError):
        status = _BY_PROBLEM.get(error.problem) or _BY_STATUS.get(error.status, 500)
        return _problem(status, error)
    for kind, status in _BY_ERROR:
        if isinstance(error, kind):
            said = getattr(error, "http_status", status) if isinstance(error, Refused) else status
            known = rpc_error_of(error)
            return _problem(said, known, str(getattr(error, "problem", "")) or known.problem)
    return Problem(500, "the server failed; the failure is recorded under this reply's x-request-id")


def _problem(status: int, error: RpcError, problem: str | None = None) -> Problem:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return Problem(
        status,
        "the server failed; the failure is recorded under this reply's x-request-id"
        if status == 500
        else error.message,
        problem="" if status == 500 else problem or error.problem,
        errors=[Place(e.get("at", ""), e.get("message", "")) for e in error.errors],
        headers=headers,
        retry_after=error.retry_after if error.retry_after is not None else (1.0 if status in (429, 503) else None),
    )


_encode = msgspec.json.Encoder().encode


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _words(problem: str) -> str:
    name = problem.rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return name.replace("-", " ").replace("_", " ").strip().capitalize()


def _type(problem: str) -> str:
    if not problem:
        return "about:blank"
    return problem if ":" in problem or "/" in problem else f"/problems/{problem}"
