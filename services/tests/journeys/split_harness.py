"""The harness in the split shape: each service a runtime of its own, and gRPC between them, over real sockets.

What differs from several processes is what a test needs to differ: one clock in hand, one log in memory, one loop.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from millstream import Caller
from millstream.grpc.channel import GrpcChannel
from millstream.grpc.passport import SharedKey
from millstream.grpc.server import GrpcServer
from millstream.http.auth import Unauthenticated
from millstream.runtime.process import bind
from millstream.runtime.runtime import Composition, Runtime
from millstream.testing.harness import Harness

__all__ = ["SplitHarness"]

TRUST = SharedKey(b"k" * 32)


class SplitHarness(Harness):
    """Opens like a `Harness`; its `runtime` shows the services of all runtimes."""

    async def _run(self, composition: Composition) -> Runtime:
        stack = self._stack
        await stack.enter_async_context(composition.transport)
        held = [stack.enter_context(bind("127.0.0.1", 0, shared=True)) for _ in self.services]
        ports = {service.name: sock.getsockname()[1] for service, sock in zip(self.services, held, strict=True)}
        runtimes: list[Runtime] = []
        for service in self.services:
            others = {
                method.service: [f"127.0.0.1:{ports[other.name]}"]
                for other in self.services
                for method in other.methods
                if other is not service
            }
            channel = GrpcChannel(others, TRUST, self.clock, composition.entropy, composition.instrumentation)
            stack.push_async_callback(channel.aclose)
            own = replace(composition, transport=self._log_of(composition), remote=channel)
            runtime = await stack.enter_async_context(Runtime([service], own))
            server = GrpcServer(runtime.dispatcher, TRUST, _nobody, self.clock)
            await server.start("127.0.0.1", ports[service.name])
            stack.push_async_callback(server.close, 0)
            runtimes.append(runtime)
        return cast(Runtime, _All(runtimes))

    def _log_of(self, composition: Composition) -> Any:
        """The log as one of the runtimes has it."""
        return _Shared(composition.transport)


class _All(SimpleNamespace):
    """What the harness and the tests ask of a runtime."""

    def __init__(self, runtimes: list[Runtime]) -> None:
        super().__init__(bound={name: bound for runtime in runtimes for name, bound in runtime.bound.items()})
        self.ids = runtimes[0].ids
        self._runtimes = runtimes

    @property
    def ready(self) -> bool:
        return all(runtime.ready for runtime in self._runtimes)


class _Shared(contextlib.AbstractAsyncContextManager[Any]):
    """A transport that somebody else opens and closes."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def __aexit__(self, *_: object) -> None: ...


async def _nobody(token: str) -> Caller:
    raise Unauthenticated("no clients here")
