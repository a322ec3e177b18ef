"""PostgreSQL's error codes as errors of this framework: one table, used at the edge of both adapters.

The codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from psycopg import pq

from ..errors import BadStatement, Busy, Conflict, MillstreamError, StoreUnavailable

__all__ = ["Again", "Unreachable", "code_of", "is_stale_plan", "named", "translated"]


class Again(StoreUnavailable):
    """The transaction has to be run again (serialisation failure, deadlock, a plan that became stale): nobody's fault."""


class Unreachable(StoreUnavailable):
    """The connection is gone, so whether a commit under way counted is unknown."""


_AGAIN = frozenset({"40001", "40P01"})
_TOO_SLOW = frozenset({"57014", "25P04"})
# 25006: the primary became a standby. 25P03, 55P03, 57P0x: the server ended the wait, the session or itself.
_AWAY = frozenset({"25006", "25P03", "55P03", "57P01", "57P02", "57P03", "57P04", "57P05"})
_AWAY_CLASSES = frozenset({"08", "53", "58", "F0", "XX"})


def code_of(result: pq.abc.PGresult) -> str:
    """The five characters of an error; empty when libpq itself gave up, not the server."""
    found = result.error_field(pq.DiagnosticField.SQLSTATE)
    return found.decode() if found else ""


def is_stale_plan(result: pq.abc.PGresult) -> bool:
    """Whether a statement was prepared before its table changed: it has to be prepared again, and then it runs."""
    function = result.error_field(pq.DiagnosticField.SOURCE_FUNCTION)
    return code_of(result) == "0A000" and function == b"RevalidateCachedQuery"


def translated(result: pq.abc.PGresult) -> MillstreamError:
    """What an error result means for the caller. It carries the engine's own words, which may hold values of the row."""
    code = code_of(result)
    primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    detail = result.error_field(pq.DiagnosticField.MESSAGE_DETAIL)
    text = primary.decode(errors="replace").strip() + (f" ({detail.decode(errors='replace')})" if detail else "")
    if not code:
        return Unreachable(text)
    return Again(f"{text} [{code}]") if is_stale_plan(result) else named(code, text)


def named(code: str, text: str) -> MillstreamError:
    """What an error code means for the caller. text: the engine's words."""
    text = f"{text} [{code}]"
    if code in _AGAIN:
        return Again(text)
    if code.startswith("23"):
        return Conflict(text)
    if code in _TOO_SLOW:
        return Busy(f"{text}: it ran longer than the store's `limit`")
    if code in _AWAY or code[:2] in _AWAY_CLASSES:
        return StoreUnavailable(text)
    return BadStatement(text)
