"""AMQP 0.9.1 in bytes: the few frames that travel per record, encoded and decoded by hand.

Everything else (opening, declaring, closing) goes through pamqp. A record is three frames in each direction: a method, a
content header with its properties, and its body, cut at what was agreed as the largest frame.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, cast

from pamqp import decode, encode

__all__ = [
    "ACK",
    "BODY",
    "CANCEL",
    "CHANNEL_CLOSE",
    "CHANNEL_CLOSE_OK",
    "DELIVER",
    "END",
    "HEAD",
    "HEADER",
    "HEADERS_LIMIT_BYTES",
    "HEARTBEAT",
    "HEARTBEAT_FRAME",
    "METHOD",
    "NACK",
    "RETURN",
    "TAG",
    "ack",
    "body_size",
    "content",
    "message_id",
    "properties",
    "publish",
    "table",
]

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
HEAD = Struct(">BHI")
"""Frame type, channel, size of the payload."""
TAG = Struct(">QB")
"""Delivery tag, and in its lowest bit whether it speaks for all before it too."""
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

# Class and method as one number: what a method's payload begins with.
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = 20 << 16 | 40, 20 << 16 | 41
CANCEL, RETURN, DELIVER, ACK, NACK = (60 << 16 | method for method in (30, 50, 60, 80, 120))

HEADERS_LIMIT_BYTES = 64 * 1024
"""A content header is one frame, and RabbitMQ's largest frame is 128 KiB: what headers may take of it."""

_END = b"\xce"
_ACK = Struct(">BHIIQBB")
_CONTENT = Struct(">BHIHHQH")
_SIZE_AND_FLAGS = Struct(">QH")
_LONG_LONG = Struct(">q")
_LONG = Struct(">I")
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 14, 1 << 13, 1 << 12
_PRIORITY, _CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 1 << 11, 1 << 10, 1 << 9, 1 << 8, 1 << 7
_PERSISTENT = b"\x02"


def publish(channel: int, queue: str) -> bytes:
    """basic.publish straight to a queue, to be returned when there is none. The same bytes for every record of it."""
    name = encode.short_string(queue)
    payload = b"\x00\x3c\x00\x28\x00\x00\x00" + name + b"\x01"  # class, method, reserved, default exchange; mandatory
    return HEAD.pack(METHOD, channel, len(payload)) + payload + _END


def table(headers: dict[str, Any]) -> bytes:
    """A header table, encoded."""
    return encode.field_table(cast("Any", headers))


def content(channel: int, content_type: bytes, headers: bytes, body: bytes, largest_frame: int) -> list[bytes]:
    """The content header and the body that follow a basic.publish; `headers` is an encoded table."""
    size = 15 + len(content_type) + len(headers) + 1
    flags = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE
    parts = [
        _CONTENT.pack(HEADER, channel, size, 60, 0, len(body), flags),
        bytes((len(content_type),)),
        content_type,
        headers,
        _PERSISTENT,
        _END,
    ]
    largest_body = largest_frame - 8
    for start in range(0, len(body), largest_body):
        part = body if len(body) <= largest_body else body[start : start + largest_body]
        parts += (HEAD.pack(BODY, channel, len(part)), part, _END)
    return parts


def ack(channel: int, tag: int) -> bytes:
    """basic.ack of a delivery and all before it."""
    return _ACK.pack(METHOD, channel, 13, ACK, tag, 1, END)


def body_size(header: bytes) -> int:
    """How many bytes of body follow a content header."""
    return _SIZE_AND_FLAGS.unpack_from(header, 4)[0]


def properties(header: bytes) -> tuple[str | None, dict[str, Any]]:
    """The content type and the headers of a content header."""
    flags = _SIZE_AND_FLAGS.unpack_from(header, 4)[1]
    at = 14
    content_type: str | None = None
    if flags & _CONTENT_TYPE:
        end = at + 1 + header[at]
        content_type = header[at + 1 : end].decode("utf-8", "replace")
        at = end
    if flags & _CONTENT_ENCODING:
        at += 1 + header[at]
    if not flags & _HEADERS:
        return content_type, {}
    return content_type, _headers(header, at)


def message_id(header: bytes) -> str | None:
    """The id in a content header that its producer gave the message."""
    flags = _SIZE_AND_FLAGS.unpack_from(header, 4)[1]
    if not flags & _MESSAGE_ID:
        return None
    at = 14
    for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
        at += 1 + header[at] if flags & flag else 0
    at += 4 + _LONG.unpack_from(header, at)[0] if flags & _HEADERS else 0
    at += 1 if flags & _DELIVERY_MODE else 0
    at += 1 if flags & _PRIORITY else 0
    for flag in (_CORRELATION_ID, _REPLY_TO, _EXPIRATION):
        at += 1 + header[at] if flags & flag else 0
    return header[at + 1 : at + 1 + header[at]].decode("utf-8", "backslashreplace")


def _headers(data: bytes, at: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    start = at
    end = at + 4 + _LONG.unpack_from(data, at)[0]
    at += 4
    while at < end:
        value = at + 2 + data[at]
        name = data[at + 1 : value - 1].decode("utf-8", "replace")
        kind = data[value - 1]
        if kind == 0x53:  # S, text; what nearly all headers are
            after = value + 4 + _LONG.unpack_from(data, value)[0]
            # A key travels as it is, lone surrogates of somebody's JSON included.
            found[name] = data[value + 4 : after].decode("utf-8", "surrogatepass")
        elif kind == 0x6C:  # l, a signed number of eight bytes
            after = value + 8
            found[name] = _LONG_LONG.unpack_from(data, value)[0]
        elif kind == 0x74:  # t, a boolean
            after = value + 1
            found[name] = data[value] != 0
        else:
            return dict(decode.field_table(data[start:end])[1])
        at = after
    return found
