"""CloudEvents in binary content mode, as foreign producers send it, turned into the structured JSON that a log keeps.

In binary mode the context attributes are headers of the protocol and the body is the bare data (CloudEvents 1.0, protocol
bindings for Kafka, NATS, AMQP and HTTP). Each binding spells the headers its own way, so the caller strips the prefix.
Millstream itself writes structured mode: one body with everything in it, under `STRUCTURED`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

import msgspec

__all__ = ["STRUCTURED", "is_structured", "structured"]

STRUCTURED = "application/cloudevents+json; charset=utf-8"
"""The content type of what Millstream writes to every log."""

_JSON = ("application/json", "text/json")
_NUMBERS = frozenset({"dataversion"})
"""Our extensions that are integers in JSON; a header is always text."""
_NUMBER = re.compile("[0-9]{1,9}")
"""CloudEvents has integers of 32 bits; a longer text stays one, and is undecodable."""


def is_structured(content_type: str | None) -> bool:
    """Whether a body with this content type carries the whole event."""
    return content_type is None or content_type.partition(";")[0].strip().lower() == "application/cloudevents+json"


def structured(attributes: Mapping[str, str], data: bytes, content_type: str | None) -> bytes:
    """The event as structured JSON.

    attributes: the context attributes without the binding's prefix (`id`, `source`, `type`, `specversion`, …), as text.
    data: the body as it came; JSON is embedded, anything else goes as `data_base64`. Nothing is judged here, and nothing
    raises: an event that lacks an attribute is undecodable to whoever reads it, and becomes a dead letter with its bytes.
    """
    fields: dict[str, object] = {}
    for name, value in attributes.items():
        lower = name.lower()
        fields[lower] = int(value) if lower in _NUMBERS and _NUMBER.fullmatch(value) else value
    if content_type is not None:
        fields["datacontenttype"] = content_type
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if data:
        if (kind in _JSON or kind.endswith("+json")) and _is_json(data):
            fields["data"] = msgspec.Raw(data)
        else:
            fields["data_base64"] = base64.b64encode(data).decode()
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:  # half of a surrogate pair, of somebody who encodes them one by one
        return msgspec.json.encode({_sound(name): _sound(value) for name, value in fields.items()})


def _sound(value: object) -> object:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
