"""What a failed call says beyond its code, as bytes: gRPC's richer error model.

The bytes are a `google.rpc.Status` (google/rpc/status.proto) with `ErrorInfo`, `BadRequest` and `RetryInfo`
(google/rpc/error_details.proto); gRPC carries them in the trailer `grpc-status-details-bin`, so clients that know
nothing of Millstream read them with their own library. The five messages are small and frozen, so they are written
here by hand: no generated code, and no protobuf runtime for services that are never called over gRPC.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..service.contract import RpcError

__all__ = ["DETAILS_TRAILER", "decode_error", "encode_error"]

DETAILS_TRAILER = "grpc-status-details-bin"
DOMAIN = "millstream"

_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode_error(error: RpcError) -> bytes:
    """The details of an error. Of its places, `at` and `message` travel."""
    parts = [_number(1, error.status), _text(2, error.message)]
    if error.problem:
        parts.append(_any(_ERROR_INFO, _text(1, error.problem) + _text(2, DOMAIN)))
    if error.errors:
        places = (_text(1, e.get("at", "")) + _text(2, e.get("message", "")) for e in error.errors)
        parts.append(_any(_BAD_REQUEST, b"".join(_field(1, place) for place in places)))
    if error.retry_after is not None:
        whole, nanos = divmod(round(error.retry_after * 1e9), 1_000_000_000)
        parts.append(_any(_RETRY_INFO, _field(1, _number(1, whole) + _number(2, nanos))))
    return b"".join(parts)


def decode_error(status: int, message: str, details: bytes) -> RpcError:
    """The error that a peer encoded. Details that cannot be read are left out: the code and the message stay."""
    try:
        return _decode(status, message, details)
    except (ValueError, IndexError, UnicodeDecodeError):
        return RpcError(status, message)


def _decode(status: int, message: str, details: bytes) -> RpcError:
    problem, retry_after = "", None
    errors: list[dict[str, str]] = []
    for field, value in _fields(details):
        if field != 3 or not isinstance(value, bytes):
            continue
        any_ = dict(_fields(value))
        kind, body = any_.get(1), any_.get(2, b"")
        if not isinstance(body, bytes):
            continue
        if kind == _ERROR_INFO.encode():
            problem = _string(dict(_fields(body)), 1)
        elif kind == _BAD_REQUEST.encode():
            for _, violation in _fields(body):
                if isinstance(violation, bytes):
                    place = dict(_fields(violation))
                    errors.append({"at": _string(place, 1), "message": _string(place, 2)})
        elif kind == _RETRY_INFO.encode():
            delay = dict(_fields(body)).get(1, b"")
            if isinstance(delay, bytes):
                span = dict(_fields(delay))
                retry_after = _integer(span, 1) + _integer(span, 2) / 1e9
    return RpcError(status, message, problem=problem, errors=tuple(errors), retry_after=retry_after)


# -- the wire format: https://protobuf.dev/programming-guides/encoding/ ------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value) if value else b""


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _field(field, value.encode("utf-8", "replace")) if value else b""


def _any(kind: str, body: bytes) -> bytes:
    return _field(3, _text(1, kind) + _field(2, body))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if size < 0 or at + size > len(data):
            raise ValueError("not a protobuf message")
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not a varint")


def _string(fields: dict[int, int | bytes], number: int) -> str:
    value = fields.get(number, b"")
    return value.decode() if isinstance(value, bytes) else ""


def _integer(fields: dict[int, int | bytes], number: int) -> int:
    value = fields.get(number, 0)
    return value if isinstance(value, int) else 0
