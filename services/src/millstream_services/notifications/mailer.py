"""Sending mail: over SMTP, or not at all where no server is configured.

The address reads `smtp://user:password@host:port` (STARTTLS where the server offers it; `?starttls=required` insists)
or `smtps://…` (TLS from the start). A server that is away or says 4xx is `Transient`; a letter that it refuses for good
(5xx) is `Permanent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from hashlib import blake2b
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib
from millstream import Permanent, Transient
from millstream.errors import Misconfigured

from .domain import Letter

__all__ = ["Mailer", "SmtpMailer", "Unsent", "message_id"]

CONNECTIONS = 4
"""SMTP takes one letter at a time on a connection."""
TIMEOUT_SECONDS = 8.0


class Mailer(Protocol):
    """Takes letters. sends: whether there is a mail server at all."""

    @property
    def sends(self) -> bool: ...

    async def send(self, letter: Letter, message_id: str) -> None:
        """Hand a letter to the mail server. A repeat has the same Message-ID, by which mail systems drop copies.

        Raises:
            Transient: try again later. Permanent: the server will never take this letter.
        """
        ...


class Unsent:
    """No mail server: letters are recorded in the service's table and go nowhere else."""

    sends = False

    async def send(self, letter: Letter, message_id: str) -> None:
        return None


class SmtpMailer:
    """Keeps a few connections and opens them when there is something to send.

    sender: the From address. domain: added to customers that are no mail address themselves.
    """

    sends = True

    def __init__(self, url: str, sender: str, domain: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise Misconfigured("[services.notifications] smtp: write smtp://user:password@host:port")
        required = parse_qs(parts.query).get("starttls") == ["required"]
        self._tls = parts.scheme == "smtps"
        self._starttls = True if required else (False if self._tls else None)
        self._host, self._port = parts.hostname, parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender, self._domain = sender, domain
        self._idle: list[aiosmtplib.SMTP] = []
        self._gate = asyncio.Semaphore(CONNECTIONS)

    async def send(self, letter: Letter, message_id: str) -> None:
        mail = EmailMessage()
        to = letter.customer if "@" in letter.customer else f"{letter.customer}@{self._domain}"
        try:
            mail["From"], mail["To"], mail["Subject"] = self._sender, to, letter.subject
            mail["Message-ID"] = message_id
            mail.set_content(letter.text)
        except ValueError as error:  # a customer's name with a line break in it
            raise Permanent(f"the letter cannot be addressed: {error}") from error
        try:
            async with self._connection() as client:
                await client.send_message(mail)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refusal(error.recipients[0].code, str(error)) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _refusal(error.code, error.message) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Transient(f"mail server {self._host}:{self._port}: {error}") from error

    async def aclose(self) -> None:
        """Say goodbye on every connection."""
        while self._idle:
            client = self._idle.pop()
            try:
                await client.quit(timeout=1.0)
            except (aiosmtplib.SMTPException, OSError):
                client.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[aiosmtplib.SMTP]:
        async with self._gate:
            client = self._idle.pop() if self._idle else self._new()
            try:
                if not client.is_connected:
                    await client.connect()
                yield client
            except BaseException:
                client.close()  # its state is unknown; the next letter gets a new one
                raise
            self._idle.append(client)

    def _new(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls,
            start_tls=self._starttls,
            timeout=TIMEOUT_SECONDS,
        )


def message_id(key: str, domain: str) -> str:
    """A Message-ID (RFC 5322 §3.6.4) that every try of one call shares."""
    return f"<{blake2b(key.encode(), digest_size=16).hexdigest()}@{domain}>"


def _refusal(code: int, words: str) -> Permanent | Transient:
    text = f"the mail server said {code} {words}"
    return Permanent(text) if code >= 500 else Transient(text)
