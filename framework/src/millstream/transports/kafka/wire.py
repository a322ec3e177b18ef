"""Records as CloudEvents on Kafka (CloudEvents 1.0, Kafka protocol binding).

Written in structured mode: the value is the whole event as JSON, the header `content-type` says so, the record's key is the
message's key in UTF-8, and no key is a null key. Read in both modes: what a foreign producer sent in binary mode, with the
attributes as headers `ce_…`, becomes structured JSON. A foreign record without a key has its event's subject for one, else its
`partitionkey`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Final, cast

import msgspec
from confluent_kafka import Message

from ...binary_mode import STRUCTURED, is_structured, structured
from ...message import Record

__all__ = ["HEADERS", "OVERHEAD_BYTES", "encoded_key", "to_record"]

Headers = list[tuple[str, str | bytes | None]]
HEADERS: Final[Headers] = [("content-type", STRUCTURED.encode())]
"""What every record of ours carries."""
OVERHEAD_BYTES: Final = 2 * 1024
"""What a record takes on the wire on top of its value: a key of 1 KiB, the header, and the frame of its batch."""

_PREFIX: Final = "ce_"
_headers: Final = cast(Callable[[Message], Headers | None], methodcaller("headers"))
"""For a name that is no UTF-8 the driver returns a broken list with an exception left pending. Called by this, that is an error
here; a plain call may miss it, and fail later or crash."""


def encoded_key(key: str | None) -> bytes | None:
    """The key as a partitioner and a foreign reader see it."""
    return None if key is None else key.encode("utf-8", "surrogatepass")


def to_record(message: Message) -> Record:
    """What a record of the broker is to a reader of the log. Nothing is judged: what is no event passes as it came."""
    offset, value, key = message.offset() or 0, message.value() or b"", message.key()
    # Foreign keys may be any bytes; ours are text.
    text = None if key is None else key.decode("utf-8", "backslashreplace")
    try:
        headers = _headers(message)
    except SystemError:  # a name is no UTF-8
        headers = None
    if headers == HEADERS:
        return Record(value, text, offset + 1)
    named = {name.lower(): raw for name, raw in headers or () if raw is not None}
    content_type = _text(named.pop("content-type", None))
    attributes = {
        name.removeprefix(_PREFIX): _text(raw) or "" for name, raw in named.items() if name.startswith(_PREFIX)
    }
    if not attributes or (content_type is not None and is_structured(content_type)):
        return Record(value, _key_in(value) if text is None else text, offset + 1)
    if text is None:
        text = attributes.get("subject", attributes.get("partitionkey"))
    return Record(structured(attributes, value, content_type), text, offset + 1)


class _Attributes(msgspec.Struct):
    subject: str | None = None
    partitionkey: str | None = None


_attributes: Final = msgspec.json.Decoder(_Attributes)


def _key_in(value: bytes) -> str | None:
    try:
        event = _attributes.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return event.partitionkey if event.subject is None else event.subject


def _text(raw: str | bytes | None) -> str | None:
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
