"""JetStream's API, as far as a log needs it: streams, single messages, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ...errors import Misconfigured, TransportUnavailable
from .connection import Connection, NotPermitted

__all__ = ["ApiError", "Code", "JetStream", "Stored", "is_no_responders", "stored"]

ATTEMPT_SECONDS = 2.0
"""How long one question may take before it is asked again: a cluster that elects a leader answers nobody."""
PAUSE_SECONDS = 0.1


class Code:
    """JetStream's own error codes (server/errors.json)."""

    NOT_ENABLED = (10039, 10076)
    UNAVAILABLE = 10008
    CONSUMER_NOT_FOUND = 10014
    NO_MESSAGE = 10037
    TOO_LARGE = 10054
    HEADERS_TOO_LARGE = 10097
    STREAM_EXISTS = 10058
    STREAM_NOT_FOUND = 10059
    STREAM_FULL = 10077
    WRONG_LAST_SEQUENCE = (10071, 10164)
    NO_ATOMIC_PUBLISH = 10174
    BATCH_INCOMPLETE = 10176
    BATCH_TOO_LARGE = 10199
    CONFIGURATION = (10025, 10052, 10065, 10074)
    """Invalid JSON or configuration, subjects that overlap another stream, replicas without a cluster."""


class ApiError(TransportUnavailable):
    """JetStream said no. What a caller does not expect counts as unavailable: it may pass."""

    def __init__(self, what: str, code: int, description: str) -> None:
        super().__init__(f"JetStream, {what}: {description} ({code})")
        self.code = code
        self.description = description


class Stored(msgspec.Struct, frozen=True):
    """A message as JetStream's API gives it."""

    seq: int = 0
    data: bytes = b""
    time: str = ""


class JetStream:
    """Questions to JetStream over whatever connection is open when they are asked.

    connect: gives an open connection. timeout: seconds until a question fails.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout

    async def ask(self, operation: str, question: object = None) -> dict[str, Any]:
        """Ask once more while nobody answers, until the time is up: for questions that may be asked twice.

        Raises:
            ApiError: JetStream's answer is an error.
            Misconfigured: JetStream is not enabled, or we may not ask.
            TransportUnavailable: no answer.
        """
        subject = f"$JS.API.{operation}"
        body = b"" if question is None else msgspec.json.encode(question)
        until = asyncio.get_running_loop().time() + self._timeout
        while True:
            try:
                return await self._ask_once(subject, operation, body)
            except ApiError as error:
                if error.code != Code.UNAVAILABLE or asyncio.get_running_loop().time() > until:
                    raise
            except NotPermitted as error:
                raise Misconfigured(f"{error}; a service needs $JS.API.>, $KV.>, its topics, and _INBOX.>") from error
            except TransportUnavailable:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask_once(self, subject: str, operation: str, body: bytes) -> dict[str, Any]:
        connection = await self._connect()
        headers, answer = await connection.request(subject, body, min(self._timeout, ATTEMPT_SECONDS))
        if is_no_responders(headers):
            raise TransportUnavailable(
                "NATS answers, JetStream does not: is it enabled (`jetstream {}`) and has a leader?"
            )
        decoded = _decoded(answer)
        error = decoded.get("error")
        if error is None:
            return decoded
        code, description = error.get("err_code", 0), error.get("description", "")
        if code in Code.NOT_ENABLED:
            raise Misconfigured(
                f"NATS: {description}; add `jetstream {{ sync_interval: always }}` to its configuration"
            )
        raise ApiError(operation, code, description)

    async def publish(self, subject: str, body: bytes, headers: bytes = b"") -> int:
        """Store one message in whatever stream has the subject; return its sequence. Not repeated by itself.

        Raises:
            ApiError: JetStream refused it.
            TransportUnavailable: nothing is known.
        """
        connection = await self._connect()
        status, answer = await connection.request(subject, body, self._timeout, headers)
        return stored(subject, status, answer)

    async def last_message(self, stream: str, subject: str) -> Stored:
        """The last message of a subject; one without a sequence when there is none.

        Asked of the stream's leader: a follower could be behind.
        """
        try:
            message = (await self.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))["message"]
        except ApiError as error:
            if error.code == Code.NO_MESSAGE:
                return Stored()
            raise
        return msgspec.convert(message, Stored)


def stored(subject: str, status: bytes, answer: bytes) -> int:
    """The sequence in a confirmation.

    Raises:
        ApiError: it is a refusal.
        TransportUnavailable: no stream has the subject.
    """
    if is_no_responders(status):
        raise TransportUnavailable(f"NATS: no stream takes {subject} now")
    decoded = _decoded(answer)
    error = decoded.get("error")
    if error is not None:
        raise ApiError(f"publish to {subject}", error.get("err_code", 0), error.get("description", ""))
    return int(decoded["seq"])


def _decoded(answer: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransportUnavailable("somebody else than JetStream answers its subjects") from error


def is_no_responders(headers: bytes) -> bool:
    """Whether an answer says that nobody listens."""
    return headers.startswith(b"NATS/1.0 503")
