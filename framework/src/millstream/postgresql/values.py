"""Parameters on their way out, columns on their way in. Integers, floats, text, bytes and NULL keep their types.

Parameters carry no type: the server takes each for what its place needs. Text travels as text, bytes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.adapt import Buffer, Loader
from psycopg.types.string import TextLoader

from ..errors import BadStatement
from ..ports.store import Param

__all__ = ["Encoded", "array", "encoded", "use_portable_types"]

Encoded = tuple[list[bytes | None], list[int] | None]
"""Values, and for each whether it is text (0) or binary (1); None: all are text."""


def encoded(params: Sequence[Param]) -> Encoded:
    """Parameters as libpq takes them.

    Raises:
        BadStatement: a text that PostgreSQL cannot hold (a NUL, half of a surrogate pair), or no parameter at all.
    """
    values: list[bytes | None] = []
    formats: list[int] | None = None
    for param in params:
        kind = type(param)
        if kind is str:
            values.append(_text(param))  # type: ignore[arg-type] - `kind` says so
        elif kind is int:
            values.append(b"%d" % param)
        elif param is None:
            values.append(None)
        elif kind is bytes:
            if formats is None:
                formats = [0] * len(params)
            formats[len(values)] = 1
            values.append(param)  # type: ignore[arg-type] - `kind` says so
        else:
            _append_other(param, values)
    return values, formats


def array(column: Sequence[Param], binary: bool) -> tuple[bytes, int]:
    """A column of parameters as one array parameter, and its format. `binary`: an array of bytea."""
    if binary:
        return _bytea_array(column), 1
    parts: list[str] = []
    for param in column:
        if type(param) is int:
            parts.append(str(param))
        elif param is None:
            parts.append("NULL")
        else:
            text = encoded((param,))[0][0]
            assert text is not None
            quoted = text.decode().replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{quoted}"')
    return f"{{{','.join(parts)}}}".encode(), 0


def use_portable_types(connection: AsyncConnection[Any]) -> None:
    """Let results hold what SQLite gives too: a sum of integers is an integer, and JSON is text."""
    connection.adapters.register_loader("numeric", _NumberLoader)
    connection.adapters.register_loader("json", TextLoader)
    connection.adapters.register_loader("jsonb", TextLoader)


def _text(param: str) -> bytes:
    try:
        value = param.encode()
    except UnicodeEncodeError as error:
        raise BadStatement(f"a text with half of a surrogate pair cannot be stored: {error.reason}") from error
    if b"\0" in value:
        raise BadStatement("PostgreSQL cannot store a NUL character in a text; store bytes instead")
    return value


def _append_other(param: Any, values: list[bytes | None]) -> None:
    if isinstance(param, bool):
        values.append(b"1" if param else b"0")
    elif isinstance(param, int):
        values.append(b"%d" % param)
    elif isinstance(param, float):
        values.append(repr(float(param)).encode())
    elif isinstance(param, str):
        values.append(_text(param))
    elif isinstance(param, bytes | bytearray):
        values.append(b"\\x" + param.hex().encode())
    else:
        raise BadStatement(f"{type(param).__name__} is no parameter: give a str, int, float, bytes or None")


def _bytea_array(column: Sequence[Param]) -> bytes:
    # The binary form: dimensions, has nulls, element type (17 is bytea), length, lower bound; then each with its length.
    has_nulls = 1 if None in column else 0
    parts = [b"".join(n.to_bytes(4, "big") for n in (1, has_nulls, 17, len(column), 1))]
    for param in column:
        if param is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            value = param if isinstance(param, bytes) else encoded((param,))[0][0] or b""
            parts += (len(value).to_bytes(4, "big"), value)
    return b"".join(parts)


class _NumberLoader(Loader):
    def load(self, data: Buffer) -> int | float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)
