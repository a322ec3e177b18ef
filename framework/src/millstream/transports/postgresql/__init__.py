"""The log in PostgreSQL: for systems that have a PostgreSQL and want no broker. Start with `transport.py`; the rows and
every statement on them are in `layout.py`.

```toml
transport = "postgresql://user:password@db.internal:5432?keep=3d"
```
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import parse_qsl, urlencode

import msgspec

from ...clock import Clock, seconds
from ...errors import Misconfigured
from ...ports.instrumentation import Instrumentation
from ...postgresql.database import database_of
from .transport import PostgresqlLog, PostgresqlLogOptions

__all__ = ["PostgresqlLog", "PostgresqlLogContext", "PostgresqlLogOptions", "open_transport"]

NAME = "millstream_log"
"""Of the database, or of the schema in a database that the URL names."""


class PostgresqlLogContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def clock(self) -> Clock: ...
    @property
    def instrumentation(self) -> Instrumentation: ...
    @property
    def keep_seconds(self) -> float: ...


def open_transport(url: str, context: PostgresqlLogContext) -> PostgresqlLog:
    """Entry point: `postgresql://user@host:5432` keeps the log in a database `millstream_log`,
    `postgresql://user@host/platform` in a schema of that name. Behind `?` stand the options of `PostgresqlLogOptions` and
    those of every PostgreSQL URL (`connections`, `limit`, `sslmode`, …).

    Raises:
        Misconfigured: options that nobody knows, or a value that is none; all of them are listed. The text never holds
            the password.
    """
    base, _, query = (url if ":" in url else f"{url}://").partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = PostgresqlLogOptions.__struct_fields__
    own: dict[str, str | float] = {"keep": context.keep_seconds}
    own |= {name: given.pop(name) for name in known if name in given}
    options, problems = PostgresqlLogOptions(), list[str]()
    try:
        options = msgspec.convert(own, PostgresqlLogOptions, strict=False)
        seconds(options.keep)
    except (msgspec.ValidationError, Misconfigured) as error:
        problems.append(f"transport postgresql: {error}")
    try:
        database = database_of(f"{base}?{urlencode(given)}", NAME)
    except Misconfigured as error:
        also = f"; the log also takes {', '.join(known)}"
        problems += (f"transport {text}{also if 'no option' in text else ''}" for text in error.problems)
        raise Misconfigured(problems) from None
    if problems:
        raise Misconfigured(problems)
    return PostgresqlLog(database, clock=context.clock, instrumentation=context.instrumentation, options=options)
