"""A record read from the log, decoded and judged before any transaction (rule C7).

A batch may run more than once; decoding once and outside keeps the transaction short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from ..errors import Undecodable
from ..message import EventType, Message, Record, decode_message, parse_time

__all__ = ["Fate", "Prepared", "prepare"]

Fate = Literal["run", "skip", "unknown", "undecodable"]
_NO_MESSAGE = Message("", "", "")
_NUL = b"\\u0000"
"""How JSON writes it: a search of the bytes spares every other message a look at its attributes."""


class Prepared(msgspec.Struct, gc=False):
    """One record on its way through a batch.

    fate: `run` it; `skip` a type that nobody here ever subscribed to; `unknown` is one that another version of this
    service knows: it waits for a worker that does; `undecodable` becomes a dead letter, without a lane where not even
    the key could be read.
    """

    position: int
    value: bytes
    message: Message
    event: Any
    fate: Fate
    tenant: str
    key: str
    time_us: int
    error: str = ""
    lane: bool = True
    layout: int = 0
    """First part of its place in the lane; its position is the second (rules C11, F3)."""


def prepare(records: Sequence[Record], known: Mapping[str, EventType], recorded: Mapping[str, int]) -> list[Prepared]:
    """Decode records. `known`: event types by name that this worker handles; `recorded`: those of the stored row."""
    return [prepare_one(r.value, r.position, known, recorded) for r in records]


def prepare_one(value: bytes, position: int, known: Mapping[str, EventType], recorded: Mapping[str, int]) -> Prepared:
    """Decode and judge one record."""
    try:
        message = decode_message(value)
        if _NUL in value:
            _refuse_nul(message)
        time_us = parse_time(message.time) if message.time else 0
    except Undecodable as error:
        return Prepared(position, value, _NO_MESSAGE, None, "undecodable", "", "", 0, str(error), lane=False)
    declared = known.get(message.type)
    tenant, key = message.tenant or "", message.subject if message.subject is not None else message.id
    if declared is not None and message.dataversion <= declared.version:
        try:
            event = declared.read(message.dataversion, _data_of(message))
        except Undecodable as error:
            return Prepared(position, value, message, None, "undecodable", tenant, key, time_us, str(error))
        return Prepared(position, value, message, event, "run", tenant, key, time_us)
    if declared is not None or message.type in recorded:
        error = f"{message.type} version {message.dataversion} is not known to this worker"
        return Prepared(position, value, message, None, "unknown", tenant, key, time_us, error)
    return Prepared(position, value, message, None, "skip", tenant, key, time_us)


def _refuse_nul(message: Message) -> None:
    """CloudEvents forbids control characters in attributes; a NUL is one that not every store can keep as text.

    Raises:
        Undecodable: an attribute that the kernel keeps has one. In the data it is the handler's affair.
    """
    for name in ("id", "source", "type", "subject", "tenant"):
        if "\0" in (getattr(message, name) or ""):
            raise Undecodable(f"attribute {name}", "it contains a NUL character")


def _data_of(message: Message) -> bytes | msgspec.Raw:
    """Raises:
    Undecodable: it is no base64.
    """
    if message.data_base64 is not None:
        import base64  # foreign producers only

        try:
            return base64.b64decode(message.data_base64)
        except ValueError as error:
            raise Undecodable("data_base64", str(error)) from error
    return message.data
