"""The log on Redis Streams: one stream per partition. Start with `transport.py`; what lies in Redis is in `entries.py`.

```toml
transport = "redis://user:password@redis.internal:6379/0?keep=3d"
```
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ...clock import Clock, seconds
from ...errors import Misconfigured
from ...ports.instrumentation import Instrumentation
from .connections import Address
from .transport import RedisOptions, RedisTransport

__all__ = ["RedisContext", "RedisOptions", "RedisTransport", "open_transport"]

DEFAULT_PORT = 6379


class RedisContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def clock(self) -> Clock: ...
    @property
    def instrumentation(self) -> Instrumentation: ...
    @property
    def keep_seconds(self) -> float: ...


def open_transport(url: str, context: RedisContext) -> RedisTransport:
    """Entry point: `redis://[user][:password]@host[:port][/database][?options]`, with the options of `RedisOptions`.

    Raises:
        Misconfigured: options that the transport does not know, or a value that is none; all of them are listed. The
            text never holds the password.
    """
    parts = urlsplit(url if ":" in url else f"{url}:")
    host, port, problems = parts.hostname or "127.0.0.1", DEFAULT_PORT, list[str]()
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        problems.append(f"transport redis: {error}")
    shown = f"transport 'redis://{host}:{port}'"
    database = parts.path.strip("/")
    if database and not database.isdecimal():
        problems.append(f"{shown}: {database!r} is no database; Redis numbers them: redis://{host}:{port}/0")
    given: dict[str, str | float] = {"keep": context.keep_seconds, **dict(parse_qsl(parts.query))}
    known = RedisOptions.__struct_fields__
    problems += [
        f"{shown}: unknown option {name!r}; there are {', '.join(known)}" for name in given if name not in known
    ]
    options = RedisOptions()
    try:
        options = msgspec.convert(given, RedisOptions, strict=False)
    except msgspec.ValidationError as error:
        problems.append(f"{shown}: {error}")
    for name in ("keep", "timeout"):
        try:
            seconds(getattr(options, name))
        except Misconfigured as error:
            problems.append(f"{shown}: {name}: {error}")
    if problems:
        raise Misconfigured(problems)
    address = Address(
        host=host,
        port=port,
        database=int(database or 0),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=options.tls,
        tls_ca=options.tls_ca,
    )
    return RedisTransport(address, clock=context.clock, instrumentation=context.instrumentation, options=options)
