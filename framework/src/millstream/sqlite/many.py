"""Many rows by few statements: an INSERT of 64 rows costs less than half of 64 INSERTs.

The texts are made once for each (table, columns) and size, so that SQLite's prepared statements are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

__all__ = ["Insert", "insert"]

SIZES = (64, 16, 4, 1)
"""Rows of one statement. Four texts for a table are enough: 499 rows take ten statements."""


class Insert:
    """An INSERT into `table`; `conflict` is what follows VALUES. Identifiers come from code, never from input."""

    __slots__ = ("_texts", "columns")

    def __init__(self, table: str, columns: Sequence[str], conflict: str = "") -> None:
        self.columns = len(columns)
        row = f"({', '.join('?' * self.columns)})"
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608 - identifiers from code
        self._texts = [(size, f"{head}{', '.join([row] * size)} {conflict}".rstrip()) for size in SIZES]

    def run(self, cursor: Any, rows: Sequence[Sequence[Any]]) -> None:
        """Insert the rows in their order. `cursor`: of apsw, or a connection."""
        start, left = 0, len(rows)
        for size, text in self._texts:
            while left >= size:
                part = rows[start : start + size]
                cursor.execute(text, part[0] if size == 1 else tuple(chain.from_iterable(part)))
                start += size
                left -= size


@lru_cache(maxsize=1024)
def insert(table: str, columns: tuple[str, ...], conflict: str = "") -> Insert:
    """The `Insert` of these identifiers, made once."""
    return Insert(table, columns, conflict)
