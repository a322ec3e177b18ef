"""The other processes on one data folder: where they answer, and plain HTTP to them.

Each process writes a file into `processes/` when it is ready and removes it when it stops; only their owner may read
them. A file that a killed process left behind leads to an address where nobody answers, which counts as its absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from yarl import URL

from ..errors import Misconfigured
from ..http.admin_file import AdminFile, read_admin_file
from ..http.problems import Problem

__all__ = ["Reply", "Siblings"]

ANSWER_SECONDS = 60.0
"""How long an operator's request to a sibling may take, as long as the CLI waits."""
LOOK_SECONDS = 2.0
"""How long it may take that everybody waits for: metrics, documents."""


class Reply(msgspec.Struct, frozen=True):
    """What a sibling answered."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Siblings:
    """Open with `async with`. own: name of this process, which is none of its siblings."""

    def __init__(self, folder: Path, own: str) -> None:
        self._folder = folder
        self._own = own

    def processes(self) -> dict[str, AdminFile]:
        """All of them that said where they are, by name."""
        found: dict[str, AdminFile] = {}
        for path in sorted(self._folder.glob("*.json")):
            if path.stem != self._own:
                try:
                    file = read_admin_file(path)
                except Misconfigured:
                    continue  # it is being replaced, or somebody else's
                if file is not None:
                    found[path.stem] = file
        return found

    async def ask(
        self,
        service: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        as_operator: bool = False,
    ) -> Reply:
        """One request to a process that runs a service; the next one is asked when nobody answers at an address.

        as_operator: with the process's own admin token.

        Raises:
            Problem: 503, none of them answers.
        """  # fmt: skip
        for file in self.processes().values():
            if service in file.services:
                given = {**(headers or {}), **({"authorization": f"Bearer {file.token}"} if as_operator else {})}
                try:
                    return await self._send(method, file.url + path, body, given, ANSWER_SECONDS)
                except aiohttp.ClientConnectorError:
                    continue
                except (aiohttp.ClientError, TimeoutError) as error:
                    raise Problem(503, f"{service} did not answer: {type(error).__name__}", retry_after=1.0) from error
        raise Problem(503, f"no process of {service} answers", problem="service-unavailable", retry_after=1.0)

    async def look(self, path: str) -> dict[str, bytes]:
        """GET the same path of every sibling, side by side; those that do not answer are left out."""
        found: dict[str, bytes] = {}

        async def one(name: str, file: AdminFile) -> None:
            try:
                reply = await self._send("GET", file.url + path, b"", {}, LOOK_SECONDS)
            except (aiohttp.ClientError, TimeoutError):
                return
            if reply.status == 200:
                found[name] = reply.body

        async with asyncio.TaskGroup() as group:
            for name, file in self.processes().items():
                group.create_task(one(name, file))
        return dict(sorted(found.items()))

    async def _send(self, method: str, url: str, body: bytes, headers: Mapping[str, str], limit: float) -> Reply:
        timeout = aiohttp.ClientTimeout(total=limit)
        async with self._session.request(
            method, URL(url, encoded=True), data=body or None, headers=headers, timeout=timeout,
            allow_redirects=False,
        ) as reply:  # fmt: skip
            return Reply(reply.status, list(reply.raw_headers), await reply.read())

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
