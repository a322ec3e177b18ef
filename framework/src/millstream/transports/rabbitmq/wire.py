"""What lies in the queues, for clients that know nothing of Millstream.

A record is a CloudEvent in structured mode: content type `application/cloudevents+json; charset=utf-8`, the body is the
whole event. Its key stands in the header `millstream-key`; a record without a key has the header `millstream-keyless`
instead, so that "no key" and the empty key differ.

A foreign message is one with neither header. In structured mode (or without any sign of an event) it passes as it is; in
binary mode it is turned into structured mode. Binary mode is spelled in three ways, all of them understood: headers
`ce-id`, `ce-source`, … (Knative's RabbitMQ binding, which the CloudEvents libraries implement), `cloudEvents:id` and
`cloudEvents_id` (the AMQP 1.0 binding; RabbitMQ shows application properties to AMQP 0.9.1 as headers). The key of a
foreign message is the event's subject, else its `partitionkey`.

The first record of each queue is ours and no event of anybody: header `millstream-partition`. See `topics.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ...binary_mode import STRUCTURED, is_structured, structured
from ...message import Record, format_time
from .frames import content, properties, table

__all__ = ["KEY", "OFFSET", "OPENING", "attributes_in", "encoded", "offset_of", "opening_of", "record"]

KEY, KEYLESS, OPENING = "millstream-key", "millstream-keyless", "millstream-partition"
OFFSET = "x-stream-offset"
"""What every delivery from a stream has, and none from another queue."""

_PREFIXES = ("ce-", "cloudevents:", "cloudevents_")
_CONTENT_TYPE = STRUCTURED.encode()
_KEY_TABLE = b"\x0emillstream-keyS"
_NO_KEY = table({KEYLESS: True})


class _Subject(msgspec.Struct):
    subject: str | None = None
    partitionkey: str | None = None


_subject = msgspec.json.Decoder(_Subject)


def encoded(channel: int, record: Record, largest_frame: int) -> list[bytes]:
    """Content header and body of a record, to follow a basic.publish."""
    if record.key is None:
        headers = _NO_KEY
    else:
        key = record.key.encode("utf-8", "surrogatepass")
        headers = b"".join(
            ((len(_KEY_TABLE) + 4 + len(key)).to_bytes(4, "big"), _KEY_TABLE, len(key).to_bytes(4, "big"), key)
        )
    return content(channel, _CONTENT_TYPE, headers, record.value, largest_frame)


def record(header: bytes, body: bytes) -> tuple[int, Record | None]:
    """The offset of a delivery, and its record; None where it opens a partition."""
    content_type, headers = properties(header)
    offset = int(headers[OFFSET])
    key = headers.get(KEY)
    if type(key) is str:
        return offset, Record(body, key, offset + 1)
    if KEYLESS in headers:
        return offset, Record(body, None, offset + 1)
    if OPENING in headers:
        return offset, None
    return offset, _foreign(content_type, headers, body, offset + 1)


def offset_of(header: bytes) -> int:
    """Where a delivery stands in its stream."""
    return int(properties(header)[1][OFFSET])


def opening_of(header: bytes) -> int | None:
    """The partition count that an opening record tells; None for any other record."""
    count = properties(header)[1].get(OPENING)
    return count if isinstance(count, int) else None


def attributes_in(headers: dict[str, Any]) -> dict[str, str]:
    """The attributes of an event in binary mode, without their prefix."""
    attributes: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        for prefix in _PREFIXES:
            if lower.startswith(prefix):
                attributes[lower[len(prefix) :]] = _text(lower[len(prefix) :], value)
    return attributes


def _foreign(content_type: str | None, headers: dict[str, Any], body: bytes, position: int) -> Record:
    attributes = attributes_in(headers)
    if "specversion" in attributes and (content_type is None or not is_structured(content_type)):
        key = attributes.get("subject", attributes.get("partitionkey"))
        return Record(structured(attributes, body, content_type), key, position)
    try:
        event = _subject.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Record(body, None, position)  # undecodable to whoever reads it: a dead letter with its bytes
    return Record(body, event.partitionkey if event.subject is None else event.subject, position)


def _text(attribute: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() if attribute == "time":  # the AMQP binding's timestamp: milliseconds since 1970
            return format_time(value * 1000)
        case datetime():
            return format_time(round(value.timestamp() * 1_000_000))
        case bytes():
            return value.decode("utf-8", "replace")
        case _:
            return str(value)
