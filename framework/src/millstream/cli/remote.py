"""A client of the admin API: plain blocking HTTP on the standard library, because it starts in a few milliseconds."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from ..errors import Misconfigured
from ..http.admin_file import AdminFile, read_admin_file
from ..runtime.settings import Settings
from .exits import NotReachable, Problem
from .options import Remote

__all__ = ["AdminClient", "connect", "segment"]

TIMEOUT_SECONDS = 60.0


class AdminClient:
    """Requests to one running system. Each opens its own connection."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(f"--url {url!r}: write it as http://host:port")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._parts = parts
        self._token = token

    def get(self, path: str, **query: object) -> Any:
        """GET and decode; parameters that are None are left out."""
        return self._decoded("GET", path, query, None)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """POST JSON and decode; members that are None are left out."""
        given = {key: value for key, value in body.items() if value is not None}
        return self._decoded("POST", path, {}, msgspec.json.encode(given))

    def lines(self, path: str, **query: object) -> Iterator[Any]:
        """GET a stream of JSON lines, until it ends.

        Raises:
            NotReachable: the system went away in the middle.
        """
        with closing(self._connection(timeout=None)) as connection:
            response = self._send(connection, "GET", path, query, None)
            try:
                while line := response.readline():
                    yield msgspec.json.decode(line)
            except (OSError, http.client.HTTPException) as error:
                raise NotReachable(f"{self.url} went away ({error})") from error

    def _decoded(self, method: str, path: str, query: Mapping[str, object], body: bytes | None) -> Any:
        with closing(self._connection(TIMEOUT_SECONDS)) as connection:
            content = self._send(connection, method, path, query, body).read()
        try:
            return msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise Problem(
                200, "Unexpected reply", f"{self.url}{path} does not speak JSON: is it Millstream?"
            ) from error

    def _connection(self, timeout: float | None) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=timeout)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: bytes | None,
    ) -> http.client.HTTPResponse:
        given = {key: str(value).lower() if isinstance(value, bool) else value for key, value in query.items()}
        text = urlencode({key: value for key, value in given.items() if value is not None}, doseq=True)
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        try:
            connection.request(method, f"{path}?{text}" if text else path, body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise NotReachable(
                f"nobody answers at {self.url} ({error}). Start it with `millstream up`, or say where it runs with --url"
            ) from error
        if response.status >= 400:
            raise _problem(response.status, response.reason, response.read())
        return response


def connect(where: Remote) -> AdminClient:
    """A client of the running system that the options, the environment or the data folder name.

    Raises:
        NotReachable: there is no address anywhere. Misconfigured: the file with it cannot be read.
    """
    url = where.url or os.environ.get("MILLSTREAM_URL")
    token = where.token or os.environ.get("MILLSTREAM_TOKEN")
    if url and token:
        return AdminClient(url, token)
    settings = where.settings()
    known = read_admin_file(settings.admin_file) or _only_process(settings)
    if known is None and url is None:
        raise NotReachable(
            f"nothing runs on {settings.data}/ (no {settings.admin_file}). Start it with `millstream up`, or say where "
            "it runs with --url and --token"
        )
    if known is not None and (url is None or AdminClient(url, "").url == known.url):
        return AdminClient(known.url, token or known.token)
    raise Misconfigured(f"{url} needs an operator's token: --token, or MILLSTREAM_TOKEN")


def _only_process(settings: Settings) -> AdminFile | None:
    """The one process of a single service that runs there, where no process answers for a whole system."""
    files = sorted(settings.processes.glob("*.json"))
    if len(files) > 1:
        names = ", ".join(file.stem for file in files)
        raise Misconfigured(
            f"several processes run on {settings.data}/ ({names}) and none answers for all: start one with --edge, or "
            "name one with --url and --token"
        )
    return read_admin_file(files[0]) if files else None


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


def _problem(status: int, reason: str, content: bytes) -> Problem:
    title, detail = f"{status} {reason}", ""
    with suppress(msgspec.DecodeError):
        body = msgspec.json.decode(content)
        if isinstance(body, dict):
            title, detail = str(body.get("title", title)), str(body.get("detail", ""))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - any JSON
    return Problem(status, title, detail)
