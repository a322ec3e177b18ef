"""The log in Apache Kafka: start with `transport.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ...clock import seconds
from ...errors import Misconfigured
from .connection import Connection
from .transport import KEEP_SECONDS, KafkaOptions, KafkaTransport

__all__ = ["Connection", "KafkaContext", "KafkaOptions", "KafkaTransport", "open_transport"]

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SMALLEST_RECORD_BYTES = 1024


class KafkaContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def keep_seconds(self) -> float: ...


class _Options(msgspec.Struct, frozen=True):
    """What a URL may say behind its question mark."""

    replication: int | None = None
    min_insync: int | None = None
    keep: str | float | None = None
    flush: bool = False
    largest_record_bytes: int = KafkaOptions().largest_record_bytes
    wait: str | float = KafkaOptions().wait_seconds
    tls: bool = False
    ca: str = ""
    sasl: str = "PLAIN"


def open_transport(url: str, context: KafkaContext) -> KafkaTransport:
    """Entry point: `kafka://[user:password@]host[:9092][,host…]?replication=3&min_insync=2`.

    Topics get `replication` copies, of which `min_insync` confirm, and keep records for `keep` (`14d`), or for a week, or for as
    long as the runtime asks for if that is longer. `flush=true`, `largest_record_bytes`, `wait`: see `KafkaOptions`. `tls=true` with
    `ca=FILE`, and `sasl=PLAIN|SCRAM-SHA-256|SCRAM-SHA-512` with user and password.

    Raises:
        Misconfigured: everything that is wrong with the URL. It does not show the password.
    """
    parts = urlsplit(url if ":" in url else f"{url}:")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    shown = f"transport 'kafka://{'…@' if credentials else ''}{hosts}'"
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = _Options.__struct_fields__
    problems = [
        f"{shown}: unknown option {name!r}; there are {', '.join(known)}" for name in given if name not in known
    ]
    if not hosts:
        problems.append(f"{shown}: say where the brokers are: kafka://host:9092,host:9092")
    if credentials and not (user and password):
        problems.append(f"{shown}: give user and password, or neither")
    options, keep, wait = _Options(), KEEP_SECONDS, 0.0
    try:
        options = msgspec.convert({k: v for k, v in given.items() if k in known}, _Options, strict=False)
        wait = seconds(options.wait)
        keep = max(KEEP_SECONDS, context.keep_seconds) if options.keep is None else seconds(options.keep)
    except (msgspec.ValidationError, Misconfigured) as error:
        problems.append(f"{shown}: {error}")
    problems += [f"{shown}: {problem}" for problem in _problems(options, wait)]
    if problems:
        raise Misconfigured(problems)
    connection = Connection(
        ",".join(host if ":" in host else f"{host}:9092" for host in hosts.split(",")),
        unquote(user),
        unquote(password),
        options.sasl,
        options.tls,
        options.ca,
    )
    return KafkaTransport(
        connection,
        KafkaOptions(
            replication=options.replication,
            min_insync=options.min_insync,
            keep_seconds=keep,
            flush=options.flush,
            largest_record_bytes=options.largest_record_bytes,
            wait_seconds=wait,
        ),
    )


def _problems(options: _Options, wait: float) -> list[str]:
    problems: list[str] = []
    for name, count in (("replication", options.replication), ("min_insync", options.min_insync)):
        if count is not None and count < 1:
            problems.append(f"{name}={count}: it is at least 1")
    copies, confirming = options.replication, options.min_insync
    if copies is not None and confirming is not None and confirming > copies:
        problems.append(f"min_insync={confirming} is more than replication={copies}")
    if options.largest_record_bytes < _SMALLEST_RECORD_BYTES:
        problems.append(f"largest_record_bytes={options.largest_record_bytes}: it is at least {_SMALLEST_RECORD_BYTES}")
    if wait <= 0:
        problems.append(f"wait={options.wait}: it is more than nothing")
    if options.sasl not in _MECHANISMS:
        problems.append(f"sasl={options.sasl}: there are {', '.join(_MECHANISMS)}")
    if options.ca and not options.tls:
        problems.append("ca is for tls=true")
    if options.ca and not Path(options.ca).is_file():
        problems.append(f"ca={options.ca}: there is no such file")
    return problems
