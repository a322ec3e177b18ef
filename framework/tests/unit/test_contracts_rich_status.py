"""Error details as bytes: what google's own messages read and write, and bytes of strangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.contracts import RpcError, Status
from millstream.contracts.rich_status import decode_error, encode_error

FULL = RpcError(
    Status.INVALID_ARGUMENT, "bad ☕", problem="invalid-request",
    errors=({"at": "lines[3].quantity", "message": "must be at least 1"}, {"at": "", "message": "x" * 300}),
    retry_after=1.25,
)  # fmt: skip


def test_google_reads_what_we_write() -> None:
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    details = pytest.importorskip("google.rpc.error_details_pb2")
    status = status_pb2.Status.FromString(encode_error(FULL))
    assert (status.code, status.message, len(status.details)) == (FULL.status, FULL.message, 3)
    info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
    for packed, message in zip(status.details, (info, bad, retry), strict=True):
        assert packed.Unpack(message)
    assert (info.reason, info.domain) == ("invalid-request", "millstream")
    assert [(v.field, v.description) for v in bad.field_violations] == [(e["at"], e["message"]) for e in FULL.errors]
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.25


def test_we_read_what_google_writes() -> None:
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    details = pytest.importorskip("google.rpc.error_details_pb2")
    status = status_pb2.Status(code=5, message="gone")
    for message in (
        details.DebugInfo(detail="not ours"),
        details.ErrorInfo(reason="gone", metadata={"a": "b"}),
        details.BadRequest(field_violations=[{"field": "a", "description": "b"}]),
    ):
        status.details.add().Pack(message)
    seen = decode_error(5, "gone", status.SerializeToString())
    assert (seen.problem, seen.errors, seen.retry_after) == ("gone", ({"at": "a", "message": "b"},), None)


texts = st.text(max_size=300)


@given(
    status=st.integers(1, 16), message=texts, problem=texts,
    errors=st.lists(st.fixed_dictionaries({"at": texts, "message": texts}), max_size=5),
    retry=st.none() | st.integers(0, 10**9).map(lambda n: n / 1000),
)  # fmt: skip
def test_an_error_survives_its_bytes(
    status: int, message: str, problem: str, errors: list[dict[str, str]], retry: float | None
) -> None:
    error = RpcError(status, message, problem=problem, errors=tuple(errors), retry_after=retry)
    seen = decode_error(status, message, encode_error(error))
    assert (seen.status, seen.message, seen.problem, seen.errors) == (status, message, problem, tuple(errors))
    assert seen.retry_after == retry or seen.retry_after == pytest.approx(retry)


@given(st.binary(max_size=200))
def test_strange_bytes_leave_code_and_message(details: bytes) -> None:
    seen = decode_error(Status.NOT_FOUND, "gone", details)
    assert (seen.status, seen.message) == (Status.NOT_FOUND, "gone")


@given(st.data())
def test_details_cut_or_changed_on_the_way_never_raise(data: st.DataObject) -> None:
    good = bytearray(encode_error(FULL))
    for _ in range(data.draw(st.integers(1, 5))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    assert decode_error(Status.ABORTED, "m", cut).status == Status.ABORTED
