"""What the edge of a split system adds to its own process: it answers for all of them, as one process would.

| path | answer |
|---|---|
| `/ready` | 200 when this process is ready and every other service is served by somebody |
| `/metrics` | the metrics of all processes, each sample with its `process` |
| `/openapi.json` | the routes of all services |
| `/admin/…` | lanes, dead letters and outboxes of all services; topics, tail and publish |
| routes of other services | their own replies, passed on |
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from ..delivery.operations_api import Operations
from ..errors import Misconfigured
from ..http.limits import ClientGone, Limits, check_head, read_body
from ..http.problems import PROBLEM_JSON, Problem
from ..http.routing import RouteTable
from ..service.service import Service
from .remote_operations import RemoteOperations
from .siblings import Siblings

__all__ = ["Forwarding", "merged_metrics"]

# RFC 9110 §7.6.1: what belongs to one connection is not passed on. Lengths are made anew.
_OF_THE_CONNECTION = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"content-length", b"host", b"date", b"server",
    }
)  # fmt: skip
_LABELS = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (.*)")


class Forwarding:
    """own: the services of this process. everything: those of the whole system.

    serving: whether some process serves a contract, as its health says.
    """

    def __init__(
        self,
        everything: Sequence[Service],
        own: Sequence[Service],
        siblings: Siblings,
        process: str,
        body_limit_bytes: int,
        serving: Callable[[str], Awaitable[bool]],
    ) -> None:
        names = {service.name for service in own}
        self.everything = tuple(everything)
        self._others = [service for service in everything if service.name not in names]
        self._own = tuple(own)
        self._siblings = siblings
        self._process = process
        self._body_limit_bytes = body_limit_bytes
        self._serving = serving

    def operations(self) -> Mapping[str, Operations]:
        """Of the services that run elsewhere."""
        return {service.name: RemoteOperations(service.name, self._siblings) for service in self._others}

    async def ready(self) -> bool:
        """Whether every other service is there: by the health of its contracts, or by the word of its process."""
        answers: list[bool] = []

        async def one(service: Service) -> None:
            contracts = sorted({method.service for method in service.methods})
            if contracts:
                answers.append(await self._serving(contracts[0]))
                return
            try:
                answers.append((await self._siblings.ask(service.name, "GET", "/ready")).status == 200)
            except Problem:
                answers.append(False)

        async with asyncio.TaskGroup() as group:
            for service in self._others:
                group.create_task(one(service))
        return all(answers)

    async def metrics(self, own: bytes) -> bytes:
        """The text of all processes."""
        return merged_metrics({self._process: own, **await self._siblings.look("/metrics")})

    async def openapi(self, own: bytes) -> bytes:
        """One document of all routes."""
        if not any(service.routes for service in self._others):
            return own
        document: dict[str, Any] = msgspec.json.decode(own)
        for other in (await self._siblings.look("/openapi.json")).values():
            found = msgspec.json.decode(other)
            for path, methods in found.get("paths", {}).items():
                document.setdefault("paths", {}).setdefault(path, {}).update(methods)
            for kind, entries in found.get("components", {}).items():
                document.setdefault("components", {}).setdefault(kind, {}).update(entries)
        return msgspec.json.encode(document)

    def routes(self) -> list[BaseRoute]:
        """The routes of services that run elsewhere.

        Raises:
            Misconfigured: a path is shared between a service of this process and another's: this process cannot tell
                which of them is meant.
        """
        table: RouteTable[str] = RouteTable()
        own: RouteTable[str] = RouteTable()
        for service in self._own:
            for route in service.routes:
                own.add(route.method, route.path, service.name)
        problems: list[str] = []
        for service in self._others:
            for route in service.routes:
                taken = own.find(route.path)
                if taken is not None:
                    problems.append(
                        f"{route.method} {route.path}: {service.name} and {next(iter(taken[0].values()))} share this "
                        "path; in separate processes a path belongs to one service"
                    )
                table.add(route.method, route.path, service.name)
        if problems:
            raise Misconfigured(problems)
        return (
            [_Elsewhere(table, self._siblings, self._body_limit_bytes)] if any(s.routes for s in self._others) else []
        )


class _Elsewhere(BaseRoute):
    """Requests to routes of other processes, passed on with everything but what belongs to the connection."""

    def __init__(self, table: RouteTable[str], siblings: Siblings, body_limit_bytes: int) -> None:
        self._table = table
        self._siblings = siblings
        self._body_limit_bytes = body_limit_bytes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = scope["type"] == "http" and self._table.find(scope["path"]) is not None
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, headers, body = await self._pass_on(scope, receive)
        except ClientGone:
            return
        except Problem as problem:
            status, body = problem.status, problem.body()
            headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
            headers.append((b"content-type", PROBLEM_JSON))
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _pass_on(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        found = self._table.find(scope["path"])
        assert found is not None
        # Any of the path's services knows which methods it takes; its own 405 and OPTIONS are the right ones.
        service = found[0].get(scope["method"]) or next(iter(found[0].values()))
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await read_body(receive, check_head(scope, Limits()), self._body_limit_bytes)
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        headers = {name: value for name, value in given.items() if name.encode("latin-1") not in _OF_THE_CONNECTION}
        reply = await self._siblings.ask(service, scope["method"], path, body, headers)
        kept = [(n.lower(), v) for n, v in reply.headers if n.lower() not in _OF_THE_CONNECTION]
        return reply.status, kept, reply.body


def merged_metrics(texts: Mapping[str, bytes]) -> bytes:
    """Expositions of several processes as one: the samples of a metric stand together, under its description, each with
    a label `process`. (The format wants every metric once: prometheus.io, "Exposition formats".)"""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for process, text in texts.items():
        label = b'process="' + process.encode() + b'"'
        heads: list[bytes] = []
        samples: list[bytes] = []
        for line in text.splitlines():
            if line.startswith(b"# HELP "):
                heads, samples = families.setdefault(line.split(b" ", 3)[2], ([], []))
                if not heads:
                    heads.append(line)
            elif line.startswith(b"# TYPE "):
                if len(heads) == 1:
                    heads.append(line)
            elif (match := _LABELS.fullmatch(line)) is not None:
                inner = label + b"," + match[2] if match[2] else label
                samples.append(b"%b{%b} %b" % (match[1], inner, match[3]))
    lines = [line for heads, samples in families.values() for line in (*heads, *samples)]
    return b"\n".join(lines) + b"\n"
