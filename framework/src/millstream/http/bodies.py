"""Bodies in and out: typed values from hostile bytes, and the bytes of a reply.

Structs of msgspec, dataclasses and everything else that msgspec decodes are read in one pass; pydantic models by
pydantic itself, without importing it here. What is not JSON is a 400, JSON that does not fit a 422 with its places.
Numbers beyond 64 bits and the character NUL are refused for all types: no supported database can hold them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from .problems import Place, Problem

__all__ = ["Decode", "body_decoder", "encode_body", "is_pydantic", "place_of"]

Decode = Callable[[bytes], Any]

_AT = re.compile(r"(?s)(.*) - at `\$(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_SUSPECT = re.compile(rb"[0-9]{19}|\\u0000")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_INT64 = 1 << 63


def is_pydantic(kind: Any) -> bool:
    """Whether a type is a pydantic model."""
    return isinstance(kind, type) and hasattr(kind, "model_validate_json")


def body_decoder(kind: Any, depth: int) -> Decode:
    """A function from a body's bytes to a value of `kind`; it raises `Problem` and nothing else.

    Raises:
        TypeError: `kind` cannot be decoded from JSON.
    """
    decode: Decode = kind.model_validate_json if is_pydantic(kind) else msgspec.json.Decoder(kind).decode

    def checked(data: bytes) -> Any:
        if data.count(b"[") + data.count(b"{") > depth and _depth(data) > depth:
            raise Problem(400, f"the body is nested deeper than {depth}", problem="malformed-body")
        try:
            value = decode(data)
        except msgspec.ValidationError as error:
            raise _invalid([place_of(error)]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8, or nested too deep"
            raise Problem(400, f"the body is not JSON: {reason}", problem="malformed-body") from None
        except ValueError as error:  # pydantic's ValidationError is one; so is what a type's own hook raises
            raise _invalid(_places(error)) from None
        if _SUSPECT.search(data) is not None:
            _refuse_unstorable(data)
        return value

    return checked


def place_of(error: msgspec.ValidationError) -> Place:
    """Where and what, from msgspec's message."""
    text = str(error)
    at = ""
    if match := _AT.fullmatch(text):
        text, at = match[1], match[2].lstrip(".")
    for pattern, message in ((_MISSING, "is required"), (_UNKNOWN, "is not known here")):
        if match := pattern.fullmatch(text):
            return Place(f"{at}.{match[1]}".lstrip("."), message)
    return Place(at, text[:1].lower() + text[1:])


def encode_body(value: Any) -> bytes:
    """JSON of whatever a handler returned."""
    return _encoder.encode(value)


def _enc_hook(value: Any) -> Any:
    if hasattr(value, "model_dump_json"):
        return msgspec.Raw(value.model_dump_json().encode())
    raise TypeError(f"a reply cannot carry a {type(value).__name__}; return a struct, a dataclass or a plain value")


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)


def _depth(data: bytes) -> int:
    deepest = level = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        if bracket in b"[{":
            level += 1
            deepest = max(deepest, level)
        else:
            level -= 1
    return deepest


def _refuse_unstorable(data: bytes) -> None:
    places = list(_unstorable(msgspec.json.decode(data), ""))
    if places:
        raise _invalid(places)


def _unstorable(value: Any, at: str) -> Iterator[Place]:
    if isinstance(value, str):
        if "\0" in value:
            yield Place(at, "must not contain the character NUL")
    elif isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            yield Place(at, "must fit into 64 bits")
    elif isinstance(value, list):
        for index, item in enumerate(cast(list[Any], value)):
            yield from _unstorable(item, f"{at}[{index}]")
    elif isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            yield from _unstorable(key, at)
            yield from _unstorable(item, f"{at}.{key}".lstrip("."))


def _places(error: ValueError) -> list[Place]:
    listed = getattr(error, "errors", None)
    if not callable(listed):
        return [Place("", str(error))]
    places: list[Place] = []
    for found in cast(list[dict[str, Any]], listed()):
        at = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found.get("loc", ()))
        places.append(Place(at.lstrip("."), str(found.get("msg", "is not valid"))))
    return places


def _invalid(places: list[Place]) -> Problem:
    first = places[0]
    detail = f"{first.at}: {first.message}" if first.at else f"the body does not fit: {first.message}"
    return Problem(422, detail, problem="invalid-request", errors=places)
