"""The trace context as it travels: a W3C `traceparent` kept as a string, and fresh ones from the entropy port.

Source: W3C Trace Context (Recommendation, 2021), §3.2: `00-<32 hex trace id>-<16 hex span id>-<2 hex flags>`, where the
lowest bit of the flags says that somebody upstream recorded the trace.
"""

from __future__ import annotations

import re

from ..ids import Entropy

__all__ = ["TraceIds", "is_sampled", "is_valid", "read_traceparent", "trace_id_of", "with_flag"]

_SHAPE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LENGTH = 55

is_valid = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
"""Something true where a text is a traceparent of version 00. Bound, not wrapped: it runs for every span."""

_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_ODD = frozenset("13579bdf")


def read_traceparent(text: str | None) -> str | None:
    """A traceparent of version 00 from what a stranger sent; None where it is none, as the standard demands.

    Versions to come are read by the rules of version 00, their additions left out.
    """
    if text is None or is_valid(text):
        return text
    match = _SHAPE.match(text)
    if match is None or text.startswith("00") or text[_LENGTH : _LENGTH + 1] not in ("", "-"):
        return None
    return f"00{text[2:_LENGTH]}"


def is_sampled(traceparent: str) -> bool:
    """Whether somebody upstream recorded the trace."""
    return traceparent[-1:] in _ODD


def with_flag(traceparent: str, sampled: bool) -> str:
    """The same context with the flag set or cleared."""
    return f"{traceparent[:53]}{'01' if sampled else '00'}"


def trace_id_of(traceparent: str) -> str:
    """The 32 hexadecimal digits that name the trace."""
    return traceparent[3:35]


class TraceIds:
    """Random trace and span ids. The entropy is drawn for many ids at once: a system call costs more than an id."""

    __slots__ = ("_at", "_entropy", "_pool")

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._pool = ""
        self._at = 0

    def trace_id(self) -> str:
        """32 hexadecimal digits, not all zero."""
        return self._draw(32)

    def span_id(self) -> str:
        """16 hexadecimal digits, not all zero."""
        return self._draw(16)

    def trace_and_span_id(self) -> tuple[str, str]:
        """Both, in one draw: most spans begin a trace."""
        at = self._at
        if at + 48 <= len(self._pool):
            self._at = at + 48
            trace_id, span_id = self._pool[at : at + 32], self._pool[at + 32 : at + 48]
            if trace_id != _NO_TRACE and span_id != _NO_SPAN:
                return trace_id, span_id
        return self.trace_id(), self.span_id()

    def _draw(self, digits: int) -> str:
        while True:
            if self._at + digits > len(self._pool):
                self._pool, self._at = self._entropy.token(3072).hex(), 0
            drawn = self._pool[self._at : self._at + digits]
            self._at += digits
            if drawn.strip("0"):
                return drawn
