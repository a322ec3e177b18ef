"""NATS JetStream as a log. Start with `transport.py`; `publishing.py` and `reader.py` are the hot paths, `wire.py` says what
others see, `connection.py` speaks the protocol.

`intake.py` is something else: it takes in a stream that somebody else fills.

The URL is `nats://[user:password@]host:port[,host:port…]?option=value`. A user without a password is a token.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...clock import Clock, seconds
from ...errors import Misconfigured
from ...ports.instrumentation import Instrumentation
from .transport import NatsOptions, NatsTransport
from .url import read_url

__all__ = ["NatsContext", "NatsOptions", "NatsTransport", "open_transport"]


class NatsContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def clock(self) -> Clock: ...
    @property
    def instrumentation(self) -> Instrumentation: ...
    @property
    def keep_seconds(self) -> float: ...


def open_transport(url: str, context: NatsContext) -> NatsTransport:
    """Entry point: `nats://one:4222,two:4222?replicas=3&sync=always&keep=2d`.

    Options: those of `NatsOptions`, and `tls=on`, `tls_ca`, `tls_cert`, `tls_key` (files) for a connection with TLS.

    Raises:
        Misconfigured: options that the adapter does not know, or values that are none; all of them are listed.
    """
    read = read_url(url, "transport")
    given = {"keep": context.keep_seconds, **read.refuse_unknown(NatsOptions.__struct_fields__)}
    options = NatsOptions()
    try:
        options = msgspec.convert(given, NatsOptions, strict=False)
        read.problems.extend(_unusable(options))
    except msgspec.ValidationError as error:
        read.problems.append(str(error))
    read.check()
    return NatsTransport(
        read.servers, login=read.login, clock=context.clock, instrumentation=context.instrumentation, options=options
    )


def _unusable(options: NatsOptions) -> list[str]:
    problems: list[str] = []
    if not 1 <= options.replicas <= 5:
        problems.append(f"replicas={options.replicas}; a stream has 1 to 5")
    durations = {"keep": options.keep, "timeout": options.timeout}
    if options.sync not in ("", "always"):
        durations["sync"] = options.sync
    for option, value in durations.items():
        try:
            length = seconds(value)
        except Misconfigured as error:
            problems.append(f"{option}: {error}")
            continue
        if option == "timeout" and length <= 0:
            problems.append("timeout must be more than 0")
    return problems
