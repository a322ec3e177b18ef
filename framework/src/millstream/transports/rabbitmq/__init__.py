"""RabbitMQ stream queues as a log. Start with `transport.py`; `publishing.py` and `reader.py` are the hot paths, `topics.py`
says which queues there are, `wire.py` what others see in them, `connection.py` and `link.py` speak the protocol.

`intake.py` is something else: it takes in a queue that somebody else publishes to.

The URL is `rabbitmq://user:password@host:port[,host:port…]/virtual-host?option=value`. Without a user it is guest, without
a path the virtual host `/`; another one is named as in AMQP's URLs: `/name`, with `%2F` for a slash.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...clock import Clock
from .transport import RabbitmqOptions, RabbitmqTransport
from .url import read_url, wrong_durations

__all__ = ["RabbitmqContext", "RabbitmqOptions", "RabbitmqTransport", "open_transport"]


class RabbitmqContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def clock(self) -> Clock: ...
    @property
    def keep_seconds(self) -> float: ...


def open_transport(url: str, context: RabbitmqContext) -> RabbitmqTransport:
    """Entry point: `rabbitmq://user:password@one,two,three/shop?replicas=3&keep=7d`.

    Options: those of `RabbitmqOptions`, and `tls=on`, `tls_ca`, `tls_cert`, `tls_key` (files) for a connection with TLS.

    Raises:
        Misconfigured: options that the adapter does not know, or values that are none; all of them are listed.
    """
    read = read_url(url, "transport")
    given = {"keep": context.keep_seconds, **read.refuse_unknown(RabbitmqOptions.__struct_fields__)}
    options = RabbitmqOptions()
    try:
        options = msgspec.convert(given, RabbitmqOptions, strict=False)
        read.problems.extend(_unusable(options))
    except msgspec.ValidationError as error:
        read.problems.append(str(error))
    read.check()
    return RabbitmqTransport(read.addresses, login=read.login, clock=context.clock, options=options)


def _unusable(options: RabbitmqOptions) -> list[str]:
    problems = wrong_durations(
        {"keep": options.keep, "timeout": options.timeout, "heartbeat": options.heartbeat}, may_be_zero=("keep",)
    )
    if not 1 <= options.prefetch <= 65_535:
        problems.append(f"prefetch={options.prefetch}; it is a number from 1 to 65535")
    if options.segment_bytes < 1:
        problems.append(f"segment_bytes={options.segment_bytes}; it must be more than 0")
    if options.replicas < 0:
        problems.append(f"replicas={options.replicas}; it is the number of nodes, or 0 for the broker's choice")
    if options.largest_record_bytes < 1_000_000:
        problems.append(f"largest_record_bytes={options.largest_record_bytes}; a message may take 1000000")
    return problems
