"""The bounds of the HTTP edge: everything a stranger sends has one, and what is over it is refused before any work.

| bound | default | answer beyond it |
|---|---|---|
| body | 1 MiB, counted as it arrives | 413, the connection closes |
| nesting of JSON | 64 | 400 |
| headers | 64, 16 KiB together | 431 |
| path | 2 KiB | 414 |
| query | 4 KiB, 64 parameters | 414, 400 |
| requests under way | 1,024 | 503 with `Retry-After` |
| time for a request | 30 s, less when the client says so | 408 while it sends, 504 while we work |

Clients say how long they wait with `X-Request-Timeout: 2.5` (seconds) or `grpc-timeout: 2500m` (gRPC's form); a moment
that is already over is a 504 without any work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from .problems import Problem

__all__ = ["ClientGone", "Limits", "check_head", "client_timeout", "read_body"]

Receive = Callable[[], Awaitable[Any]]

TIMEOUT_HEADERS = (b"x-request-timeout", b"grpc-timeout")
_GRPC_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_GRPC_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SECONDS = re.compile(rb"\d{1,9}(\.\d{1,9})?")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Two of one of these in a request is how proxies and servers come to disagree.
_ONCE = frozenset({b"authorization", b"content-length", b"content-type", b"idempotency-key", b"x-request-id"})


class Limits(msgspec.Struct, frozen=True):
    """The bounds of one application; the defaults suit a JSON API behind a proxy or on the open network."""

    body_bytes: int = 1_048_576
    json_depth: int = 64
    headers: int = 64
    header_bytes: int = 16_384
    path_bytes: int = 2_048
    query_bytes: int = 4_096
    query_parameters: int = 64
    in_flight: int = 1_024
    request_seconds: float = 30.0
    retry_after_seconds: float = 1.0


class ClientGone(Exception):
    """The client closed the connection before its request was complete. There is nobody to answer."""


def check_head(scope: Any, limits: Limits) -> dict[bytes, bytes]:
    """The request's headers by name, once they and the path are within their bounds.

    Raises:
        Problem: 414, 431, or 400 for control characters in the path or a header given twice that may come only once.
    """
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    if len(pairs) > limits.headers:
        raise Problem(431, f"at most {limits.headers} headers are read")
    size = 0
    for name, value in pairs:
        size += len(name) + len(value)
    if size > limits.header_bytes:
        raise Problem(431, f"at most {limits.header_bytes} bytes of headers are read")
    path: str = scope["path"]
    if len(path) > limits.path_bytes or len(scope["query_string"]) > limits.query_bytes:
        raise Problem(414, f"at most {limits.path_bytes} bytes of path and {limits.query_bytes} of query are read")
    if not path.isprintable() and _CONTROLS.search(path):
        raise Problem(400, "the path contains control characters")
    headers = dict(pairs)
    if len(headers) != len(pairs):
        names = [name for name, _ in pairs if name in _ONCE]
        if len(set(names)) != len(names):
            raise Problem(400, "a header is given twice that may come only once")
    return headers


def client_timeout(headers: dict[bytes, bytes]) -> float | None:
    """How many seconds the client says it waits, or None.

    Raises:
        Problem: 400 for a value that is none of the two forms.
    """
    value = headers.get(b"x-request-timeout")
    if value is not None:
        if _SECONDS.fullmatch(value) is None:
            if re.fullmatch(rb"-\d{1,9}(\.\d{1,9})?", value):
                return 0.0
            raise Problem(400, "x-request-timeout must be a number of seconds, for instance 2.5")
        return float(value)
    value = headers.get(b"grpc-timeout")
    if value is None:
        return None
    match = _GRPC_TIMEOUT.fullmatch(value)
    if match is None:
        raise Problem(400, "grpc-timeout must be up to 8 digits and a unit of H, M, S, m, u, n")
    seconds = int(match[1]) * _GRPC_UNITS[match[2]]
    return seconds if math.isfinite(seconds) else None


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body, counted as it arrives whatever the client announced.

    Raises:
        Problem: 413. ClientGone: the connection closed before the end.
    """
    announced = headers.get(b"content-length")
    if announced is not None and (not announced.isdigit() or int(announced[:20]) > limit):
        raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts = [body]
    size = len(body)
    while True:
        if message["type"] != "http.request":
            raise ClientGone
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)


def _too_large(limit: int) -> Problem:
    # Closing tells a client that is still sending to stop.
    return Problem(413, f"at most {limit} bytes of body are read", headers={"connection": "close"})
