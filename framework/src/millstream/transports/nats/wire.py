"""What a record looks like in JetStream, for us and for everybody else.

Value: a CloudEvent in structured mode, under the header `Content-Type: application/cloudevents+json`, as the NATS protocol
binding says. Key: the header `Millstream-Key`, percent-encoded as CloudEvents encodes header values (RFC 3986 over UTF-8,
for what is not printable ASCII and for space, `"` and `%`). A record without the header has no key, one with an
empty header has the empty key.

Foreign records are read by the same binding: structured ones as they are, binary ones (attributes as `ce-` headers) turned
into structured JSON, and bodies without any header as the structured JSON that the binding's first version sent. Their
key is `Millstream-Key`, else the attribute `partitionkey`, else `subject`.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from ...binary_mode import STRUCTURED, is_structured, structured
from ...message import Record

__all__ = ["KEY_HEADER", "Foreign", "decode", "encode_headers", "escape", "foreign", "subject_prefix", "unescape"]

KEY_HEADER = "Millstream-Key"

_WITHOUT_KEY = f"NATS/1.0\r\nContent-Type:{STRUCTURED}\r\n".encode()
_BEFORE_KEY = _WITHOUT_KEY + f"{KEY_HEADER}:".encode()
_PLAIN = re.compile(r"[!#$&-~]*")
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_ATTRIBUTE = "ce-"


class _Attributes(msgspec.Struct):
    """What may stand in for a key, of a structured event."""

    partitionkey: str | None = None
    subject: str | None = None


_attributes = msgspec.json.Decoder(_Attributes)


def encode_headers(key: str | None) -> bytes:
    """The headers of one of our records, without the empty line that ends them."""
    if key is None:
        return _WITHOUT_KEY
    if not _PLAIN.fullmatch(key):
        key = quote(key, safe=_PRINTABLE, errors="surrogatepass")
    return b"%s%s\r\n" % (_BEFORE_KEY, key.encode())


def decode(headers: bytes, body: bytes, position: int) -> Record:
    """The record in a message. Never fails: a body that is no event is for its reader to judge."""
    if headers.startswith(_BEFORE_KEY):
        start = len(_BEFORE_KEY)
        return Record(body, _decode_value(headers[start : headers.index(b"\r\n", start)]), position)
    if headers == _WITHOUT_KEY + b"\r\n" or headers.startswith(_WITHOUT_KEY + b"Nats-"):
        return Record(body, None, position)
    return _decode_foreign(headers, body, position)


class Foreign(NamedTuple):
    """What the headers of somebody else's message say. attributes: those of an event in binary mode."""

    content_type: str | None
    attributes: dict[str, str]
    key: str | None


def foreign(headers: bytes) -> Foreign:
    """Read headers by the binding. Never fails."""
    found: dict[str, str] = {}
    for line in headers.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode("latin-1").lower()] = _decode_value(value.strip())
    attributes = {name[len(_ATTRIBUTE) :]: value for name, value in found.items() if name.startswith(_ATTRIBUTE)}
    content_type = found.get("content-type")
    if "specversion" in attributes and (content_type is None or not is_structured(content_type)):
        # The binding keeps the data's type in ce-datacontenttype; the Go SDK puts it into Content-Type, as HTTP does.
        content_type = attributes.pop("datacontenttype", content_type)
    else:
        attributes = {}
    return Foreign(content_type, attributes, found.get(KEY_HEADER.lower()))


def _decode_foreign(headers: bytes, body: bytes, position: int) -> Record:
    content_type, attributes, key = foreign(headers)
    if attributes:
        if key is None:
            key = attributes.get("partitionkey", attributes.get("subject"))
        return Record(structured(attributes, body, content_type), key, position)
    return Record(body, _key_in(body) if key is None else key, position)


def _key_in(body: bytes) -> str | None:
    try:
        event = _attributes.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return event.subject if event.partitionkey is None else event.partitionkey


def _decode_value(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="surrogatepass")
    except UnicodeDecodeError:  # a foreign record must not stop the connection that carries it
        return unquote(text)


# -- names ----------------------------------------------------------------------------------------------------------


def escape(name: str) -> str:
    """A name as one token of a subject, and as the name of a stream: what is not `A-Za-z0-9_-` becomes `=XX`, in UTF-8.

    Reversible, so that two names never meet in one stream.
    """
    return re.sub(rb"[^A-Za-z0-9_-]", lambda found: b"=%02X" % found[0][0], _utf8(name)).decode()


def unescape(token: str) -> str:
    """What `escape` was given."""
    return unquote(token.replace("=", "%"), errors="surrogatepass")


def subject_prefix(topic: str) -> str:
    """The subjects of a topic's partitions, up to their number: `shop.orders` has `shop.orders.0`, `shop.orders.1`, ….

    Dots stay, so that foreign readers may use wildcards; a token that would be empty is `=`, which `escape` never gives.
    """
    return ".".join(escape(token) or "=" for token in topic.split(".")) + "."


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
