"""What a URL says of the brokers and of who connects. What its options mean is for its reader."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ...clock import Duration, seconds
from ...errors import Misconfigured
from .connection import Login
from .link import Address

__all__ = ["TLS_OPTIONS", "Url", "read_url", "wrong_durations"]

TLS_OPTIONS = ("tls", "tls_ca", "tls_cert", "tls_key")

_PORT, _TLS_PORT = 5672, 5671


class Url(NamedTuple):
    """name: what errors call it, without credentials. options: those of its reader. problems: all that is wrong so far."""

    name: str
    addresses: list[Address]
    login: Login
    options: dict[str, str]
    problems: list[str]

    def check(self) -> None:
        """Raises:
        Misconfigured: there are problems.
        """
        if self.problems:
            raise Misconfigured([f"{self.name}: {problem}" for problem in self.problems])

    def refuse_unknown(self, known: tuple[str, ...]) -> dict[str, str]:
        """The options that the reader knows; the others become problems."""
        self.problems.extend(
            f"unknown option {option!r}; there are {', '.join((*known, *TLS_OPTIONS))}"
            for option in self.options
            if option not in known
        )
        return {option: value for option, value in self.options.items() if option in known}


def read_url(url: str, kind: str) -> Url:
    """Take a URL apart. kind: what it is for, as errors begin."""
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    problems: list[str] = []
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = {option: options.pop(option) for option in TLS_OPTIONS if option in options}
    addresses = _addresses(hosts, _TLS_PORT if tls else _PORT, problems)
    user, _, password = (userinfo or "guest:guest").partition(":")
    login = Login(unquote(user), unquote(password), _virtual_host(parts.path, problems), _tls(tls, problems))
    return Url(f"{kind} {parts.scheme}://{hosts}{parts.path}", addresses, login, options, problems)


def wrong_durations(durations: dict[str, Duration], *, may_be_zero: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with options that are durations."""
    problems: list[str] = []
    for option, value in durations.items():
        try:
            length = seconds(value)
        except Misconfigured as error:
            problems.append(f"{option}: {error}")
            continue
        if length <= 0 and option not in may_be_zero:
            problems.append(f"{option} must be more than 0")
    return problems


def _addresses(hosts: str, default_port: int, problems: list[str]) -> list[Address]:
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
