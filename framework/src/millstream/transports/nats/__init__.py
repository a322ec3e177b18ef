"""NATS JetStream as a log. Start with `transport.py`; `publishing.py` and `reader.py` are the hot paths, `wire.py` says what
others see, `connection.py` speaks the protocol.

The URL is `nats://[user:password@]host:port[,host:port…]?option=value`. A user without a password is a token.
"""

from __future__ import annotations

import ssl
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ...clock import Clock, seconds
from ...errors import Misconfigured
from ...ports.instrumentation import Instrumentation
from .connection import Address, Login
from .transport import NatsOptions, NatsTransport

__all__ = ["NatsContext", "NatsOptions", "NatsTransport", "open_transport"]

DEFAULT_PORT = 4222
_TLS = ("tls_ca", "tls_cert", "tls_key")


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
    parts = urlsplit(url)
    name = f"transport {parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # never the credentials
    problems: list[str] = []
    servers = _servers(parts.netloc.rpartition("@")[2], problems)
    given: dict[str, str | float] = {"keep": context.keep_seconds, **dict(parse_qsl(parts.query))}
    tls = {option: str(given.pop(option)) for option in ("tls", *_TLS) if option in given}
    known = NatsOptions.__struct_fields__
    problems += [
        f"unknown option {option!r}; there are {', '.join((*known, 'tls', *_TLS))}"
        for option in given
        if option not in known
    ]
    if parts.path not in ("", "/"):
        problems.append(f"a path, {parts.path!r}, means nothing here")
    options = NatsOptions()
    try:
        options = msgspec.convert(given, NatsOptions, strict=False)
        problems += _unusable(options)
    except msgspec.ValidationError as error:
        problems.append(str(error))
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    login = Login(
        user=unquote(user) if password else None,
        password=unquote(password) if password else None,
        token=unquote(user) if user and not password else None,
        tls=_tls(tls, problems),
    )
    if problems:
        raise Misconfigured([f"{name}: {problem}" for problem in problems])
    return NatsTransport(
        servers, login=login, clock=context.clock, instrumentation=context.instrumentation, options=options
    )


def _servers(hosts: str, problems: list[str]) -> list[Address]:
    found: list[Address] = []
    for host in hosts.split(","):
        try:
            parts = urlsplit(f"//{host}")
            port = parts.port
        except ValueError as error:
            problems.append(f"server {host!r}: {error}")
            continue
        if not parts.hostname:
            problems.append(f"server {host!r}: write nats://host:port, for instance nats://127.0.0.1:{DEFAULT_PORT}")
            continue
        found.append((parts.hostname, port or DEFAULT_PORT))
    return found


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


def _tls(given: dict[str, str], problems: list[str]) -> ssl.SSLContext | None:
    if not given:
        return None
    if given.get("tls", "on") != "on":
        problems.append(f"tls={given['tls']}; write tls=on, or leave it out: a server that requires TLS gets it anyway")
    try:
        context = ssl.create_default_context(cafile=given.get("tls_ca"))
        if "tls_cert" in given:
            context.load_cert_chain(given["tls_cert"], given.get("tls_key"))
        elif "tls_key" in given:
            problems.append("tls_key without tls_cert")
    except (OSError, ssl.SSLError) as error:
        problems.append(f"tls: {error}; tls_ca, tls_cert and tls_key name files in PEM format")
        return None
    return context
