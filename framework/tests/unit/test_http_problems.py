"""The table from errors to RFC 9457 problems."""

from __future__ import annotations

import msgspec
import pytest
from millstream.contracts import RpcError, Status
from millstream.delivery.idempotency import KeyInUse, KeyMissing, KeyReused
from millstream.errors import (
    BadStatement,
    Busy,
    ClaimLost,
    Conflict,
    ForeignWait,
    MillstreamError,
    Misconfigured,
    Mismatch,
    Permanent,
    RecordRefused,
    Refused,
    StoreUnavailable,
    Transient,
    TransportUnavailable,
    Undecodable,
)
from millstream.http.problems import Place, Problem, problem_of
from millstream.resilience.deadline import DeadlineExceeded


class OutOfStock(Refused):
    """A refusal that says more."""

    http_status = 410
    problem = "out-of-stock"


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (KeyMissing("no key"), 400, "/problems/idempotency-key-missing", None),
        (KeyReused("reused"), 422, "/problems/idempotency-key-reused", None),
        (KeyInUse("in use"), 409, "/problems/idempotency-key-in-use", "1"),
        (Refused("no"), 409, "/problems/refused", None),
        (Mismatch("expected 1 row(s) to change: UPDATE secret"), 409, "/problems/refused", None),
        (OutOfStock("none left"), 410, "/problems/out-of-stock", None),
        (Conflict("UNIQUE secret"), 409, "/problems/conflict", "1"),
        (Undecodable("time", "odd"), 422, "/problems/undecodable", None),
        (RecordRefused(0, "too large"), 422, "/problems/record-refused", None),
        (Busy("full"), 503, "/problems/busy", "1"),
        (StoreUnavailable("/secret"), 503, "/problems/store-unavailable", "1"),
        (TransportUnavailable("secret:9092"), 503, "/problems/transport-unavailable", "1"),
        (DeadlineExceeded("late"), 504, "/problems/deadline-exceeded", None),
        (TimeoutError("secret"), 504, "/problems/deadline-exceeded", None),
        (ForeignWait("a.py:1", "secret"), 500, "about:blank", None),
        (BadStatement("secret"), 500, "about:blank", None),
        (Misconfigured("secret"), 500, "about:blank", None),
        (ClaimLost("secret"), 500, "about:blank", None),
        (Permanent("secret"), 500, "about:blank", None),
        (Transient("secret"), 500, "about:blank", None),
        (MillstreamError("secret"), 500, "about:blank", None),
        (KeyError("secret"), 500, "about:blank", None),
    ],
)
def test_each_error_has_its_problem(error: Exception, status: int, kind: str, retry: str | None) -> None:
    problem = problem_of(error)
    body = msgspec.json.decode(problem.body())
    assert (problem.status, body["status"], body["type"]) == (status, status, kind)
    assert problem.headers.get("retry-after") == retry
    assert "secret" not in problem.body().decode()
    assert set(body) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    ("status", "http"),
    [
        (Status.CANCELLED, 503), (Status.UNKNOWN, 500), (Status.INVALID_ARGUMENT, 422), (Status.DEADLINE_EXCEEDED, 504),
        (Status.NOT_FOUND, 404), (Status.ALREADY_EXISTS, 409), (Status.PERMISSION_DENIED, 403),
        (Status.RESOURCE_EXHAUSTED, 429), (Status.FAILED_PRECONDITION, 409), (Status.ABORTED, 409),
        (Status.UNIMPLEMENTED, 501), (Status.INTERNAL, 500), (Status.UNAVAILABLE, 503), (Status.UNAUTHENTICATED, 401),
        (99, 500),
    ],
)  # fmt: skip
def test_each_status_of_grpc_has_its_own_of_http(status: int, http: int) -> None:
    assert problem_of(RpcError(status, "said")).status == http


def test_what_another_service_refused_keeps_its_kind_places_and_time() -> None:
    error = RpcError(
        Status.FAILED_PRECONDITION, "sold out", problem="out-of-stock",
        errors=({"at": "lines[3].quantity", "message": "only 2 left"},), retry_after=1.2,
    )  # fmt: skip
    problem = problem_of(error)
    assert msgspec.json.decode(problem.body()) == {
        "type": "/problems/out-of-stock", "title": "Out of stock", "status": 409, "detail": "sold out",
        "errors": [{"at": "lines[3].quantity", "message": "only 2 left"}],
    }  # fmt: skip
    assert problem.headers == {"retry-after": "2"}


def test_a_missing_key_at_a_service_behind_is_a_400_at_the_edge() -> None:
    assert problem_of(RpcError(Status.INVALID_ARGUMENT, "x", problem="idempotency-key-missing")).status == 400


def test_an_internal_error_of_a_service_behind_keeps_quiet() -> None:
    body = problem_of(RpcError(Status.INTERNAL, "secret", problem="secret")).body()
    assert b"secret" not in body


def test_a_problem_of_a_handler_is_what_it_says() -> None:
    problem = Problem(
        418, "short and stout", problem="https://example.org/teapot", errors=[Place("pot", "is tea")],
        headers={"x-kind": "tea"}, retry_after=0.2,
    )  # fmt: skip
    assert problem_of(problem) is problem
    body = msgspec.json.decode(problem.body())
    assert (body["type"], body["title"]) == ("https://example.org/teapot", "Teapot")
    assert problem.headers == {"x-kind": "tea", "retry-after": "1"}
