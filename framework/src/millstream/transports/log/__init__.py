"""The embedded log: topics on one SQLite file. Start with `transport.py`; the rows are in `layout.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ...clock import Clock, seconds
from ...errors import Misconfigured
from ...ports.instrumentation import Instrumentation
from .transport import LogOptions, LogTransport

__all__ = ["LogContext", "LogOptions", "LogTransport", "open_transport"]


class LogContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def data(self) -> Path: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def instrumentation(self) -> Instrumentation: ...
    @property
    def keep_seconds(self) -> float: ...


def open_transport(url: str, context: LogContext) -> LogTransport:
    """Entry point: `log:` is `<data>/log.db`; `log:///path/file.db?keep=2d&keep_records=1000` chooses.

    Raises:
        Misconfigured: options that the log does not know, or a value that is none; all of them are listed.
    """
    # Without a colon the whole URL is the adapter's name, not a path.
    parts = urlsplit(url if ":" in url else f"{url}:")
    given: dict[str, str | float] = {"keep": context.keep_seconds, **dict(parse_qsl(parts.query))}
    known = LogOptions.__struct_fields__
    problems = [
        f"transport {url!r}: unknown option {name!r}; there are {', '.join(known)}"
        for name in given
        if name not in known
    ]
    options = LogOptions()
    try:
        options = msgspec.convert(given, LogOptions, strict=False)
        seconds(options.keep)
    except (msgspec.ValidationError, Misconfigured) as error:
        problems.append(f"transport {url!r}: {error}")
    if problems:
        raise Misconfigured(problems)
    path = Path(parts.path) if parts.path else context.data / "log.db"
    return LogTransport(path, clock=context.clock, instrumentation=context.instrumentation, options=options)
