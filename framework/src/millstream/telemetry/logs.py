"""Log lines: a constant event name plus fields, as JSON for machines or as text for a person at a terminal.

Each call makes one line (text may append an indented traceback). Fields are bounded in number and length, secrets are
blanked, and a stream that is closed or full costs the line, never the work: lost lines are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from ..clock import Clock
from ..message import format_time
from ..ports.instrumentation import current_trace
from .redaction import REDACTED, is_secret, redact_text
from .trace_context import trace_id_of

__all__ = ["FIELDS_LIMIT", "LEVELS", "TEXT_LIMIT", "Logs", "Renderer", "Stream", "TextRenderer", "render_json"]

LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""By rank, the numbers of the standard library."""
FIELDS_LIMIT = 32
TEXT_LIMIT = 1_000
"""Characters of one field: a line stays below what log shippers take (16 KB) unless it carries a traceback."""
TRACEBACK_LIMIT = 8_000
NAME_LIMIT = 100

Value = str | int | float | bool | None
Renderer = Callable[[Mapping[str, Value]], str]
"""One line, without its end, of ordered fields that begin with time, level, event and service."""


class Stream(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class Logs:
    """Writes the lines of one process."""

    def __init__(
        self, stream: Stream, clock: Clock, *, service: str, render: Renderer, level: str = "info",
        lost: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._clock = clock
        self._service = service
        self._render = render
        self._rank = LEVELS[level]
        self._lost = lost

    def log(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        """Write one line, unless its level is below the threshold. An unknown level counts as an error's."""
        if LEVELS.get(level, 40) < self._rank:
            return
        try:
            self._stream.write(self._render(self._line(level, event, fields)) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a broken pipe, a full disk, a closed stream
            if self._lost is not None:
                self._lost()

    def _line(self, level: str, event: str, fields: Mapping[str, object]) -> dict[str, Value]:
        line: dict[str, Value] = {
            "time": format_time(self._clock.now_us()),
            "level": level,
            "event": _text(event, TEXT_LIMIT),
            "service": _text(str(fields.get("service") or self._service), TEXT_LIMIT),
        }
        traceparent = fields.get("traceparent") or current_trace.get()
        if isinstance(traceparent, str):
            line["trace_id"] = _text(trace_id_of(traceparent), 32)
        for place, (name, value) in enumerate(fields.items()):
            if place >= FIELDS_LIMIT:
                line["fields_left_out"] = len(fields) - FIELDS_LIMIT
                break
            if name in ("service", "traceparent"):
                continue
            # A field may not pass itself off as the line's own time, level, event or trace.
            shown = _text(name, NAME_LIMIT)
            line[f"{shown}_" if shown in line else shown] = _value(name, value)
        return line


def render_json(line: Mapping[str, Value]) -> str:
    """One JSON object."""
    return msgspec.json.encode(line).decode()


class TextRenderer:
    """For a person: time of day, level, event, service, `name=value` …"""

    _COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "1;31"}  # noqa: RUF012 - a constant

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, line: Mapping[str, Value]) -> str:
        level = str(line["level"])
        parts = [
            self._paint(str(line["time"])[11:23], "2"),
            self._paint(f"{level:<7}", self._COLOURS.get(level, "1;31")),
            self._paint(_one_line(line["event"]), "1"),
            self._paint(_one_line(line["service"]), "36"),
        ]
        traceback = ""
        for name, value in line.items():
            if name == "traceback":
                traceback = "".join(f"\n    {_printable(row)}" for row in str(value).splitlines())
            elif name not in ("time", "level", "event", "service"):
                parts.append(f"{self._paint(_one_line(name) + '=', '2')}{_one_line(value)}")
        return " ".join(parts) + traceback

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _value(name: str, value: object) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name):
        return REDACTED
    if isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - another library's object: a line must come out whatever its __str__ does
        text = f"<{type(value).__name__}>"
    return _text(text, TRACEBACK_LIMIT if name == "traceback" else TEXT_LIMIT)


def _text(text: str, limit: int) -> str:
    if len(text) > 2 * limit:
        # What is cut here never shows; the last word goes with it, or half a credential might be left unrecognised.
        text = text[: 2 * limit].rsplit(None, 1)[0]
    text = redact_text(text)
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    # Lone surrogates can be in anything that came from outside, and no encoder takes them.
    return text.encode("utf-8", "backslashreplace").decode()


def _printable(text: str) -> str:
    # A terminal obeys control characters: a message must not move the cursor or fake a line.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _one_line(value: Value) -> str:
    text = _printable(str(value))
    return f'"{text}"' if " " in text or not text else text
