"""Events, and the message that carries one.

An **event** is an immutable fact: a typed class with a topic, a key and a version. A **message** is its envelope, a
CloudEvents 1.0 event in the JSON format (structured mode); the same bytes lie in the outbox, in the embedded log and,
where an engine's binding allows, on the wire.

```python
class OrderPlaced(Event, topic="orders", key="order_id", version=2, upgrade={1: add_currency}):
    order_id: str
    total: int
    currency: str
```

pydantic models and dataclasses become events with `@event(topic=…, key=…)`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import msgspec

from .errors import Misconfigured, Undecodable

__all__ = [
    "Event",
    "EventType",
    "Message",
    "Record",
    "Upgrade",
    "decode_message",
    "encode_message",
    "event",
    "event_type",
    "format_time",
    "parse_time",
    "partition_of",
]

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""Data of version n as a dict → data of version n + 1 as a dict."""

T = TypeVar("T")
_DECLARATION = "__millstream_event__"
DATA_LIMIT_BYTES = 1_000_000
"""Largest encoded message: every supported engine carries it under default settings (NATS: 1 MiB)."""


class EventType(msgspec.Struct, frozen=True, eq=False):
    """What was declared about an event class."""

    cls: type[Any]
    name: str
    topic: str
    key: str | None
    version: int
    upgrades: Mapping[int, Upgrade]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]

    def key_of(self, event: object) -> str | None:
        """The key of one event: the text of its key field; None where the type declares no key."""
        if self.key is None:
            return None
        value = getattr(event, self.key)
        return value if type(value) is str else str(value)

    def read(self, version: int, data: bytes) -> Any:
        """The event from data of this or an older version.

        Raises:
            Undecodable: no such data, or an upgrade is missing or fails.
        """
        try:
            if version == self.version:
                return self.decode(data)
            old = msgspec.json.decode(data)
            for step in range(version, self.version):
                upgrade = self.upgrades.get(step)
                if upgrade is None:
                    raise Undecodable(self.name, f"version {version}: no upgrade from {step} to {step + 1} is declared")
                old = upgrade(old)
            return self.decode(msgspec.json.encode(old))
        except Undecodable:
            raise
        except Exception as error:  # whatever a decoder or a user's upgrade raises, the data is what is wrong
            raise Undecodable(f"{self.name} (version {version})", f"{type(error).__name__}: {error}") from error


class _EventMeta(msgspec.StructMeta):
    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        topic: str | None = None,
        key: str | None = None,
        version: int = 1,
        type: str | None = None,  # noqa: A002 - CloudEvents calls it so
        upgrade: Mapping[int, Upgrade] | None = None,
        **options: Any,
    ) -> Any:
        options.setdefault("frozen", True)
        cls = super().__new__(mcls, name, bases, namespace, **options)
        if topic is not None:
            _declare(cls, type or name, topic, key, version, upgrade)
        elif namespace.get("__module__") != __name__:
            raise Misconfigured(f'event {name}: say where it goes: class {name}(Event, topic="…", key="…")')
        return cls


class Event(msgspec.Struct, metaclass=_EventMeta):
    """Base of events. Class arguments: `topic`, `key` (a field's name, or none), `version`, `type` (the name on the
    wire, default the class name), `upgrade` ({old version: function from that version's dict to the next one's})."""


def event(
    *,
    topic: str,
    key: str | None = None,
    version: int = 1,
    type: str | None = None,  # noqa: A002
    upgrade: Mapping[int, Upgrade] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Declare a dataclass or a pydantic model as an event; arguments as for `Event`. Returns the class unchanged."""

    def declare(cls: type[T]) -> type[T]:
        _declare(cls, type or cls.__name__, topic, key, version, upgrade)
        return cls

    return declare


def event_type(cls: type[Any]) -> EventType:
    """What was declared about an event class.

    Raises:
        Misconfigured: the class is no event.
    """
    found = cls.__dict__.get(_DECLARATION)
    if found is None:
        raise Misconfigured(
            f"{cls.__name__} is no event: derive it from Event with topic= and key=, or decorate it with @event(…)"
        )
    return cast(EventType, found)


def _declare(
    cls: type[Any], name: str, topic: str, key: str | None, version: int, upgrade: Mapping[int, Upgrade] | None
) -> None:
    problems: list[str] = []
    fields = _fields(cls)
    if fields is None:
        problems.append(f"event {name}: {cls.__name__} is neither a msgspec struct, a dataclass nor a pydantic model")
    elif key is not None and key not in fields:
        problems.append(f"event {name}: key={key!r} is no field of it; its fields are {', '.join(fields)}")
    if version < 1:
        problems.append(f"event {name}: version={version}; versions count from 1")
    if not topic or not all(c.isalnum() or c in "._-" for c in topic):
        problems.append(f"event {name}: topic={topic!r}; use letters, digits, '.', '_' and '-'")
    if problems:
        raise Misconfigured(problems)
    encode, decode = _codec(cls)
    setattr(cls, _DECLARATION, EventType(cls, name, topic, key, version, dict(upgrade or {}), encode, decode))


def _fields(cls: type[Any]) -> tuple[str, ...] | None:
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return tuple(f.name for f in dataclasses.fields(cls))
    if hasattr(cls, "model_fields") and hasattr(cls, "model_validate_json"):
        return tuple(cls.model_fields)
    return None


def _codec(cls: type[Any]) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    if hasattr(cls, "model_validate_json"):  # pydantic, without importing it
        return (lambda e: e.model_dump_json().encode()), lambda data: cls.model_validate_json(bytes(data))
    return msgspec.json.Encoder().encode, msgspec.json.Decoder(cls).decode


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="specversion", tag="1.0", gc=False):
    """The envelope: CloudEvents 1.0 context attributes, our extensions, and the data as it stands on the wire.

    `time` is when its outbox row was written by the producing store's clock (rule C8). `deadline` is the moment after
    which nobody waits for the outcome any more. Attribute names are those of the wire: lower case, no separators.
    """

    id: str
    source: str
    type: str
    time: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data_base64: str | None = None
    dataversion: int = 1
    traceparent: str | None = None
    tracestate: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    deadline: str | None = None
    tenant: str | None = None

    @property
    def key(self) -> str | None:
        """The subject: what orders messages. None: the message is ordered with no other."""
        return self.subject

    @property
    def lane(self) -> str:
        """The key of its lane; a message without a key has a lane of its own."""
        return self.id if self.subject is None else self.subject


class Record(msgspec.Struct, frozen=True, gc=False):
    """One entry of a log: an encoded message with what the log needs to place it.

    `position` counts from 1 within a partition and only grows (it may have gaps); it is 0 before publishing.
    """

    value: bytes
    key: str | None = None
    position: int = 0


_message_encoder = msgspec.json.Encoder()
_message_decoder = msgspec.json.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """CloudEvents structured JSON."""
    return _message_encoder.encode(message)


def decode_message(value: bytes) -> Message:
    """The message in a record.

    Raises:
        Undecodable: the bytes are no CloudEvents 1.0 JSON.
    """
    try:
        message = _message_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable("message", str(error)) from error
    if not message.id or not message.source:
        raise Undecodable("message", "not a CloudEvents 1.0 event: id and source must not be empty")
    return message


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: crc32 of its UTF-8 bytes modulo the count, the same on every engine."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % partitions


_seconds: dict[int, str] = {}
_prefixes: dict[str, int] = {}


def format_time(us: int) -> str:
    """RFC 3339 text, in UTC with microseconds, of microseconds since 1970."""
    second, fraction = divmod(us, 1_000_000)
    prefix = _seconds.get(second)
    if prefix is None:
        # Most messages of a burst share their second; formatting a datetime costs more than the rest of an envelope.
        if len(_seconds) > 64:
            _seconds.clear()
        prefix = _seconds[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    return f"{prefix}{fraction:06d}Z"


def parse_time(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 text.

    Raises:
        Undecodable: it is none.
    """
    if len(text) == 27 and text[26] == "Z" and text[20:26].isdigit():
        second = _prefixes.get(text[:20])
        if second is None:
            if len(_prefixes) > 64:
                _prefixes.clear()
            second = _prefixes[text[:20]] = _parse(text[:19] + "Z")
        return second + int(text[20:26])
    return _parse(text)


def _parse(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Undecodable(f"time {text!r}", "not RFC 3339") from error
    if moment.tzinfo is None:
        raise Undecodable(f"time {text!r}", "RFC 3339 needs an offset, for instance a final Z")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
