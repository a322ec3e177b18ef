"""What connects a process to those of the other services: calls out, calls in, and what its edge forwards.

A process that runs all services needs none of it and loads none of it. Nothing here depends on the engines: several
processes find each other by addresses in the settings, and trust each other by certificates or by a common key file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..caller import Caller
from ..clock import Clock
from ..errors import Misconfigured
from ..ids import Entropy
from ..ports.instrumentation import Instrumentation
from ..service.contract import Channel
from ..service.service import Service
from .binding import contracts_wanted
from .runtime import Runtime
from .settings import LOOPBACK, Settings

if TYPE_CHECKING:
    # The driver costs a process that makes and takes no calls 100 ms and 20 MB.
    from ..grpc.channel import GrpcChannel
    from ..grpc.passport import Trust
    from ..grpc.server import GrpcServer
    from ..grpc.tls import Certificates
    from .forwarding import Forwarding

__all__ = ["Network"]


class Network:
    """everything: the services of the whole system. own: those that this process runs.

    Raises:
        Misconfigured: a service calls another that is neither here nor has an address, or an address needs
            certificates; lists every problem.
    """

    def __init__(self, settings: Settings, everything: Sequence[Service], own: Sequence[Service]) -> None:
        self._settings = settings
        self._everything = everything
        self._own = own
        self._stack = AsyncExitStack()
        self._channel: GrpcChannel | None = None
        self._certificates: Certificates | None = None
        self._trust: Trust | None = None
        self.forwarding: Forwarding | None = None
        """What the edge adds; set on entering, where this process is one."""
        grpc = settings.grpc
        names = {service.name for service in own}
        self._others = [service for service in everything if service.name not in names]
        self._addresses = {
            method.service: workers
            for service in self._others
            if (workers := _workers(grpc.services, service.name))
            for method in service.methods
        }
        problems = self._missing()
        if grpc.listen and not grpc.cert and grpc.listen.rpartition(":")[0].strip("[]") not in LOOPBACK:
            problems.append(
                f"grpc.listen = {grpc.listen} is open to other machines: set grpc.cert, grpc.key and grpc.ca"
            )
        if problems:
            raise Misconfigured(problems)

    def channel(self, clock: Clock, entropy: Entropy, instrumentation: Instrumentation) -> Channel | None:
        """Calls to services of other processes; None where there are none, or their addresses are not known."""
        if not self._addresses:
            return None
        from ..grpc.channel import GrpcChannel

        trust, certificates = self._identify(entropy)
        self._channel = GrpcChannel(
            self._addresses,
            trust,
            clock,
            entropy,
            instrumentation,
            certificates=certificates,
            body_bytes=self._settings.http.body_limit_bytes,
        )
        return self._channel

    async def serve(self, runtime: Runtime, authenticate: Callable[[str], Awaitable[Caller]]) -> GrpcServer | None:
        """Serve the contracts of a runtime where the settings name an address; closed at once on leaving, so close it
        in order before."""
        settings = self._settings
        if not settings.grpc.listen:
            return None
        from ..grpc.server import GrpcServer, ServerOptions

        trust, certificates = self._identify(runtime.composition.entropy)
        options = ServerOptions(
            body_bytes=settings.http.body_limit_bytes,
            client_roles=settings.grpc.client_roles,
            reflection=settings.grpc.reflection,
        )
        server = GrpcServer(
            runtime.dispatcher,
            trust,
            authenticate,
            runtime.composition.clock,
            certificates=certificates,
            options=options,
        )
        host, _, port = settings.grpc.listen.rpartition(":")
        await server.start(host.strip("[]"), int(port))
        self._stack.push_async_callback(server.close, 0)
        runtime.composition.instrumentation.log("info", "grpc_listens", host=host, port=server.port)
        return server

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            self._stack.push_async_callback(self._channel.aclose)
        if self._settings.http.edge and self._others:
            from .forwarding import Forwarding
            from .siblings import Siblings

            settings = self._settings
            siblings = await self._stack.enter_async_context(Siblings(settings.processes, settings.process))
            self.forwarding = Forwarding(
                self._everything,
                self._own,
                siblings,
                settings.process,
                settings.http.body_limit_bytes,
                self._serving,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _serving(self, contract: str) -> bool:
        return self._channel is not None and contract in self._addresses and await self._channel.serving(contract)

    def _identify(self, entropy: Entropy) -> tuple[Trust, Certificates | None]:
        """How this process and the others know each other."""
        from ..grpc.passport import MutualTls, SharedKey
        from ..grpc.tls import read_certificates, shared_key

        if self._trust is None:
            grpc = self._settings.grpc
            self._certificates = read_certificates(grpc.cert, grpc.key, grpc.ca)
            if self._certificates is not None:
                self._trust = MutualTls(grpc.peers)
            else:
                self._trust = SharedKey(shared_key(self._settings.grpc_key, entropy))
        return self._trust, self._certificates

    def _missing(self) -> list[str]:
        """Who is called from here and cannot be reached."""
        owners = {method.service: service.name for service in self._others for method in service.methods}
        problems: list[str] = []
        for service in self._own:
            for contract in sorted(contracts_wanted(service), key=lambda wanted: wanted.service):
                owner = owners.get(contract.service)
                if owner is not None and contract.service not in self._addresses:
                    problems.append(
                        f"{service.name} calls {owner}, which does not run in this process: set "
                        f'[grpc.services] {owner} = "host:port"'
                    )
        return problems


def _workers(services: dict[str, str], name: str) -> tuple[str, ...]:
    found = services.get(name) or services.get(name.replace("-", "_"), "")
    return tuple(worker.strip() for worker in found.split(",") if worker.strip())
