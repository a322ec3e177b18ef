"""The log in Apache Kafka: start with `transport.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from ...clock import seconds
from ...errors import Misconfigured
from .connection import Connection
from .transport import KEEP_SECONDS, KafkaOptions, KafkaTransport

__all__ = ["Connection", "KafkaContext", "KafkaOptions", "KafkaTransport", "open_transport"]

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SMALLEST_RECORD_BYTES = 1024
_HOST = re.compile(r"(?P<name>[\w.-]+|\[[0-9a-fA-F:.]+\])(:(?P<port>\d{1,5}))?")


class KafkaContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def keep_seconds(self) -> float: ...


class _Options(msgspec.Struct, frozen=True):
    """What a URL may say behind its question mark."""

    replication: int | None = None
    min_insync: int | None = None
    keep: str = ""
    flush: bool = False
    largest_record_bytes: int = KafkaOptions().largest_record_bytes
    timeout: str = ""
    tls: bool = False
    ca: str = ""
    sasl: str = "PLAIN"


def open_transport(url: str, context: KafkaContext) -> KafkaTransport:
    """Entry point: `kafka://[user:password@]host[:9092][,host…]?replication=3&min_insync=2`.

    Topics get `replication` copies, of which `min_insync` confirm, and keep records for `keep` (`14d`), or for a week, or for as
    long as the runtime asks for if that is longer. `flush=true`, `largest_record_bytes`, `timeout`: see `KafkaOptions`. `tls=true` with
    `ca=FILE`, and `sasl=PLAIN|SCRAM-SHA-256|SCRAM-SHA-512` with user and password.

    Raises:
        Misconfigured: everything that is wrong with the URL. It does not show the password.
    """
    user, password, hosts, path, given = _parts(url)
    shown = f"transport 'kafka://{'…@' if user or password else ''}{hosts}'"
    options, times, problems = _chosen(given, {"keep": max(KEEP_SECONDS, context.keep_seconds)})
    problems += _problems_of_hosts(hosts) + _problems(options, times)
    if path:
        problems.append(f"there is nothing below a cluster: leave out '/{path}'")
    if bool(user) != bool(password):
        problems.append("give user and password, or neither")
    if any(sign in user + password for sign in "/?#@ "):
        problems.append("write / ? # @ and spaces in user, password and options percent-encoded")
    if "sasl" in given and not (user or password):
        problems.append("sasl is for user and password")
    if problems:
        raise Misconfigured([f"{shown}: {problem}" for problem in problems])
    connection = Connection(
        ",".join(host if re.search(r":\d+$", host) else f"{host}:9092" for host in hosts.split(",")),
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
            keep_seconds=times["keep"],
            flush=options.flush,
            largest_record_bytes=options.largest_record_bytes,
            wait_seconds=times["timeout"],
        ),
    )


def _parts(url: str) -> tuple[str, str, str, str, dict[str, str]]:
    """User, password, hosts, path and options. A password that is not percent-encoded may have any sign in it: it ends at the
    last @, so that nothing of it is taken for a host and shown."""
    credentials, _, address = url.partition("://")[2].rpartition("@")
    user, _, password = credentials.partition(":")
    place, _, query = address.partition("?")
    hosts, _, path = place.partition("/")
    return user, password, hosts, path, dict(parse_qsl(query, keep_blank_values=True))


def _chosen(given: dict[str, str], times: dict[str, float]) -> tuple[_Options, dict[str, float], list[str]]:
    """The options, durations among them in seconds, and which of them cannot be read. times: defaults."""
    known = _Options.__struct_fields__
    problems = [f"unknown option {name!r}; there are {', '.join(known)}" for name in given if name not in known]
    chosen: dict[str, object] = {}
    for name in [name for name in known if name in given]:
        try:
            chosen[name] = getattr(msgspec.convert({name: given[name]}, _Options, strict=False), name)
        except msgspec.ValidationError as error:
            problems.append(f"{name}={given[name]}: {error}")
    options = _Options(**chosen)  # pyright: ignore[reportArgumentType] - converted above, one by one
    times = {"timeout": KafkaOptions().wait_seconds, **times}
    for name, duration in (("keep", options.keep), ("timeout", options.timeout)):
        try:
            times[name] = seconds(duration) if duration else times[name]
        except Misconfigured as error:
            problems.append(f"{name}: {error}")
    return options, times, problems


def _problems_of_hosts(hosts: str) -> list[str]:
    if not hosts:
        return ["say where the brokers are: kafka://host:9092,host:9092"]
    return [
        f"{host!r} is no host:port"
        for host in hosts.split(",")
        if not (found := _HOST.fullmatch(host)) or not 0 < int(found["port"] or 9092) < 65_536
    ]


def _problems(options: _Options, times: dict[str, float]) -> list[str]:
    problems: list[str] = []
    for name, count in (("replication", options.replication), ("min_insync", options.min_insync)):
        if count is not None and count < 1:
            problems.append(f"{name}={count}: it is at least 1")
    copies, confirming = options.replication, options.min_insync
    if copies is not None and confirming is not None and confirming > copies:
        problems.append(f"min_insync={confirming} is more than replication={copies}")
    if options.largest_record_bytes < _SMALLEST_RECORD_BYTES:
        problems.append(f"largest_record_bytes={options.largest_record_bytes}: it is at least {_SMALLEST_RECORD_BYTES}")
    problems += [f"{name}: it is more than nothing" for name, duration in times.items() if duration <= 0]
    if options.sasl not in _MECHANISMS:
        problems.append(f"sasl={options.sasl}: there are {', '.join(_MECHANISMS)}")
    if options.ca and not options.tls:
        problems.append("ca is for tls=true")
    if options.ca and not Path(options.ca).is_file():
        problems.append(f"ca={options.ca}: there is no such file")
    return problems
