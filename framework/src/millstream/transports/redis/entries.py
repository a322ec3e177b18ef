"""What lies in Redis, so that other clients can read and write it.

With the default prefix `millstream:` and a topic `orders` of two partitions:

| key | type | what |
|---|---|---|
| `millstream:topics` | hash | topic → number of partitions |
| `millstream:orders:0`, `millstream:orders:1` | stream | the records of a partition |
| `millstream:orders:subscriptions` | set | who has ever marked a position |
| `millstream:orders:0:marks` | hash | subscription → how far it has read |
| `millstream:orders:0:times` | sorted set | position → until when it was written, in milliseconds; a few hundred |

The id of an entry is `9999999999999-<position>`. The first part lies in the year 2286, so Redis gives the next position
to everybody who adds with `*`, and refuses what would go backwards:

    XADD millstream:orders:0 NOMKSTREAM * content-type application/cloudevents+json key o-1 value '{"specversion": …}'

Fields of an entry:

| field | what |
|---|---|
| `value` | the CloudEvent as structured JSON; in binary mode the bare data |
| `key` | the key as UTF-8; absent: none. Of a foreign entry without it, the attribute `subject` or `partitionkey` |
| `content-type` | `application/cloudevents+json` (or absent): structured; else that of the data |
| `ce_<attribute>` | binary mode: a context attribute, as the Kafka binding spells it |

CloudEvents has no binding for Redis; this is the Kafka binding's spelling with the body in a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ...binary_mode import is_structured, structured
from ...message import Record

__all__ = ["EPOCH", "FOREIGN", "NO_KEY", "Keys", "pack", "position_of", "unpack"]

EPOCH = 9_999_999_999_999
"""The first part of every id: a time in milliseconds that no clock reaches."""
NO_KEY = -1
FOREIGN = -2
"""In the sizes that scripts take and return: in place of a key's size."""

ATTRIBUTE = "ce_"
_pack_sizes = msgspec.msgpack.Encoder().encode
_unpack_sizes = msgspec.msgpack.Decoder(list[int]).decode


class Keys:
    """The names of what belongs to a topic."""

    def __init__(self, prefix: str) -> None:
        self.prefix: Final = prefix
        self.topics: Final = f"{prefix}topics"

    def stream(self, topic: str, partition: int) -> str:
        return f"{self.prefix}{topic}:{partition}"

    def marks(self, topic: str, partition: int) -> str:
        return f"{self.prefix}{topic}:{partition}:marks"

    def times(self, topic: str, partition: int) -> str:
        return f"{self.prefix}{topic}:{partition}:times"

    def subscriptions(self, topic: str) -> str:
        return f"{self.prefix}{topic}:subscriptions"


def position_of(id_: bytes) -> int | None:
    """The position that an id stands for; None when it is of another numbering."""
    epoch, _, sequence = id_.decode().partition("-")
    return int(sequence) if epoch == str(EPOCH) else None


def pack(records: Sequence[Record]) -> tuple[bytes, bytes]:
    """Records as scripts take them: the sizes of keys and values, and all of them in one piece.

    A few large arguments instead of thousands of small ones: the client spends 1 µs a record instead of 30.
    """
    sizes: list[int] = []
    parts: list[bytes] = []
    for record in records:
        if record.key is None:
            sizes.append(NO_KEY)
        else:
            key = record.key.encode("utf-8", "surrogatepass")
            sizes.append(len(key))
            parts.append(key)
        sizes.append(len(record.value))
        parts.append(record.value)
    return _pack_sizes(sizes), b"".join(parts)


def unpack(sizes: bytes, data: bytes, after: int) -> list[Record]:
    """The records that a script returned, which stand behind `after` without a gap."""
    records: list[Record] = []
    at, position = 0, after
    steps = iter(_unpack_sizes(sizes))
    for key_size, size in zip(steps, steps, strict=True):
        position += 1
        key = None
        if key_size >= 0:
            key = _text(data[at : at + key_size])
            at += key_size
        value = data[at : at + size]
        at += size
        if key_size == FOREIGN:
            record = _foreign(value, position)
        elif key is None:
            record = Record(value, _key_within(value), position)
        else:
            record = Record(value, key, position)
        records.append(record)
    return records


def _text(key: bytes) -> str:
    try:
        return key.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return key.decode("utf-8", "replace")  # a foreign writer's: any text that is the same for the same bytes


class _Placing(msgspec.Struct):
    """The attributes that order an event where its log entry has no key."""

    subject: str | None = None
    partitionkey: str | None = None


_placing = msgspec.json.Decoder(_Placing)


def _key_within(value: bytes) -> str | None:
    """The key of an entry without one. Our own have no subject then, so only foreign ones are changed by it."""
    try:
        found = _placing.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.subject if found.subject is not None else found.partitionkey


def _foreign(packed: bytes, position: int) -> Record:
    """An entry that another client wrote. Fields that we do not know are left out."""
    texts = _netstrings(packed)
    fields = {name.decode("utf-8", "replace"): text for name, text in zip(texts[::2], texts[1::2], strict=False)}
    value = fields.get("value", b"")
    content_type = fields["content-type"].decode("utf-8", "replace") if "content-type" in fields else None
    attributes = {
        name.removeprefix(ATTRIBUTE): text.decode("utf-8", "replace")
        for name, text in fields.items()
        if name.startswith(ATTRIBUTE)
    }
    if attributes or not is_structured(content_type):
        value = structured(attributes, value, content_type)
    if "key" in fields:
        return Record(value, _text(fields["key"]), position)
    return Record(value, _key_within(value), position)


def _netstrings(packed: bytes) -> list[bytes]:
    """`3:abc1:d` → `abc`, `d`."""
    found: list[bytes] = []
    at = 0
    while at < len(packed):
        colon = packed.index(b":", at)
        end = colon + 1 + int(packed[at:colon])
        found.append(packed[colon + 1 : end])
        at = end
    return found
