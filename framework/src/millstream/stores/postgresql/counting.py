"""Writes that fail by themselves when they change another number of rows than expected.

So COMMIT travels with them: where one fails, the server skips the rest of the exchange, COMMIT included. It saves a
transaction that ends with a compare-and-set its last round trip, and costs the server a few microseconds.
"""

from __future__ import annotations

import re
from typing import final

from psycopg import pq

from ...postgresql.errors import code_of

__all__ = ["Counting", "found_changed"]

REMEMBERED = 1000
_WRITE = re.compile(rb"\s*(?:INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
_UNFIT = re.compile(rb"\bRETURNING\b|;", re.IGNORECASE)
# The number travels in the words of an error that casting it raises: that takes no function in the database.
_COUNTED = (
    b"WITH millstream_changed AS (%b\nRETURNING 1) SELECT CASE count(*) WHEN %d THEN 1 "
    b"ELSE ('millstream: changed ' || count(*))::int END FROM millstream_changed"
)
_CHANGED = re.compile(rb"millstream: changed (\d+)")
_NO_INTEGER = "22P02"
# A view or a table with rules takes no RETURNING; with row security it may ask for a right that a plain write does not.
_REFUSED = frozenset({"0A000", "42501"})


@final
class Counting:
    """Statements by their text, as a store has met them."""

    def __init__(self) -> None:
        self._counted: dict[tuple[bytes, int], bytes | None] = {}

    def counted(self, text: bytes, rows: int) -> bytes | None:
        """The statement as one that fails unless it changes `rows` rows; None where it cannot be said so."""
        place = (text, rows)
        if place in self._counted:
            return self._counted[place]
        if len(self._counted) >= REMEMBERED:
            self._counted.clear()
        fit = _WRITE.match(text) is not None and _UNFIT.search(text) is None
        found = self._counted[place] = _COUNTED % (text, rows) if fit else None
        return found

    def refused(self, text: bytes, rows: int, error: pq.abc.PGresult) -> bool:
        """Whether a counted statement may have failed for being counted alone. It is left as it is from now on."""
        if code_of(error) not in _REFUSED:
            return False
        self._counted[text, rows] = None
        return True


def found_changed(error: pq.abc.PGresult) -> int | None:
    """How many rows a counted statement changed that failed by itself; None when it failed for another reason."""
    if code_of(error) != _NO_INTEGER:
        return None
    found = _CHANGED.search(error.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
    return int(found[1]) if found else None
