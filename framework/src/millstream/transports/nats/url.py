"""What a URL says of the servers and of who connects. What its options mean is for its reader."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import Misconfigured
from .connection import Address, Login

__all__ = ["TLS_OPTIONS", "Url", "read_url"]

DEFAULT_PORT = 4222
TLS_OPTIONS = ("tls", "tls_ca", "tls_cert", "tls_key")


class Url(NamedTuple):
    """name: what errors call it, without credentials. options: those of its reader. problems: all that is wrong so far."""

    name: str
    servers: list[Address]
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
    servers = _servers(hosts, problems)
    options = dict(parse_qsl(parts.query))
    tls = {option: options.pop(option) for option in TLS_OPTIONS if option in options}
    if parts.path not in ("", "/"):
        problems.append(f"a path, {parts.path!r}, means nothing here")
    user, _, password = userinfo.partition(":")
    login = Login(
        user=unquote(user) if password else None,
        password=unquote(password) if password else None,
        token=unquote(user) if user and not password else None,
        tls=_tls(tls, problems),
    )
    return Url(f"{kind} {parts.scheme}://{hosts}", servers, login, options, problems)


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
