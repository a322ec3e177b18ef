"""RabbitMQ stream queues as a log. Start with `transport.py`; `publishing.py` and `reader.py` are the hot paths, `topics.py`
says which queues there are, `wire.py` what others see in them, `connection.py` and `link.py` speak the protocol.

The URL is `rabbitmq://user:password@host:port[,host:port…]/virtual-host?option=value`. Without a user it is guest, without
a path the virtual host `/`; another one is named as in AMQP's URLs: `/name`, with `%2F` for a slash.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ...clock import Clock, seconds
from ...errors import Misconfigured
from .connection import Login
from .link import Address
from .transport import RabbitmqOptions, RabbitmqTransport

__all__ = ["RabbitmqContext", "RabbitmqOptions", "RabbitmqTransport", "open_transport"]

_PORT, _TLS_PORT = 5672, 5671
_TLS = ("tls", "tls_ca", "tls_cert", "tls_key")


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
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    name = f"transport {parts.scheme}://{hosts}{parts.path}"  # never the credentials
    problems: list[str] = []
    given: dict[str, str | float] = {
        "keep": context.keep_seconds,
        **dict(parse_qsl(parts.query, keep_blank_values=True)),
    }
    tls = {option: str(given.pop(option)) for option in _TLS if option in given}
    known = RabbitmqOptions.__struct_fields__
    problems += [
        f"unknown option {option!r}; there are {', '.join((*known, *_TLS))}" for option in given if option not in known
    ]
    options = RabbitmqOptions()
    try:
        options = msgspec.convert({k: v for k, v in given.items() if k in known}, RabbitmqOptions, strict=False)
        problems += _unusable(options)
    except msgspec.ValidationError as error:
        problems.append(str(error))
    addresses = _addresses(hosts, _TLS_PORT if tls else _PORT, problems)
    user, _, password = (userinfo or "guest:guest").partition(":")
    login = Login(unquote(user), unquote(password), _virtual_host(parts.path, problems), _tls(tls, problems))
    if problems:
        raise Misconfigured([f"{name}: {problem}" for problem in problems])
    return RabbitmqTransport(addresses, login=login, clock=context.clock, options=options)


def _addresses(hosts: str, default_port: int, problems: list[str]) -> Sequence[Address]:
    found: list[Address] = []
    for host in hosts.split(","):
        try:
            parts = urlsplit(f"//{host}")
            port = parts.port
        except ValueError as error:
            problems.append(f"broker {host!r}: {error}")
            continue
        if parts.hostname:
            found.append((parts.hostname, port or default_port))
        else:
            problems.append(f"broker {host!r}: write rabbitmq://host:port, for instance rabbitmq://127.0.0.1:{_PORT}")
    return found


def _virtual_host(path: str, problems: list[str]) -> str:
    if path in ("", "/"):
        return "/"
    if path.count("/") > 1:
        problems.append(f"virtual host {path[1:]!r}: write %2F for a slash in its name")
    return unquote(path[1:])


def _unusable(options: RabbitmqOptions) -> list[str]:
    problems: list[str] = []
    durations = {"keep": options.keep, "timeout": options.timeout, "heartbeat": options.heartbeat}
    for option, value in durations.items():
        try:
            length = seconds(value)
        except Misconfigured as error:
            problems.append(f"{option}: {error}")
            continue
        if length <= 0 and option != "keep":
            problems.append(f"{option} must be more than 0")
    if not 1 <= options.prefetch <= 65_535:
        problems.append(f"prefetch={options.prefetch}; it is a number from 1 to 65535")
    if options.segment_bytes < 1:
        problems.append(f"segment_bytes={options.segment_bytes}; it must be more than 0")
    if options.replicas < 0:
        problems.append(f"replicas={options.replicas}; it is the number of nodes, or 0 for the broker's choice")
    if options.largest_record_bytes < 1_000_000:
        problems.append(f"largest_record_bytes={options.largest_record_bytes}; a message may take 1000000")
    return problems


def _tls(given: dict[str, str], problems: list[str]) -> ssl.SSLContext | None:
    if not given:
        return None
    if given.get("tls", "on") != "on":
        problems.append(f"tls={given['tls']}; write tls=on, or leave it out")
    try:
        context = ssl.create_default_context(cafile=given.get("tls_ca"))
        if "tls_cert" in given:
            context.load_cert_chain(given["tls_cert"], given.get("tls_key"))
    except (OSError, ssl.SSLError) as error:
        problems.append(f"tls: {error}")
        return None
    return context
