"""A service's handlers inside the process of an application, over the application's own engine.

```python
ms = Millstream(orders, engine=engine, transport="nats://localhost:4222")
app = FastAPI(lifespan=ms.lifespan)  # or `async with ms:` anywhere else
```

It runs what `millstream up` would run of that service: its relay, so that no `millstream relay` is needed beside it, its
subscriptions, effects and schedules. The application keeps its own HTTP and its own start and stop; routes, contracts and the
admin API of a service belong to `millstream up`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from ..clock import SystemClock
from ..delivery.consumption import Limits
from ..errors import Misconfigured
from ..ports.instrumentation import Instrumentation
from ..runtime.adapters import AdapterContext, open_transport
from ..runtime.runtime import Composition, Runtime
from ..service.service import Service
from ..telemetry.instrumentation import Telemetry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

__all__ = ["Millstream"]


@final
class Millstream:
    """One service on the application's engine. Open with `async with`, or give `lifespan` to the application.

    engine, sessions: as for `SqlalchemyStore`. transport: the log, as for `millstream up --transport`. data: where an embedded
    log would be. partitions: of topics that do not exist yet. instrumentation: without one, logs go to standard error, as the
    environment says (`MILLSTREAM_LOG_LEVEL`, `MILLSTREAM_LOG_FORMAT`).

    Leaving it finishes what runs within `grace` seconds, forwards what is in hand and releases the claims; the engine is the
    application's to dispose of.
    """

    def __init__(
        self,
        service: Service,
        *,
        engine: AsyncEngine,
        transport: str,
        sessions: async_sessionmaker[Any] | None = None,
        data: Path = Path("var"),
        partitions: int = 8,
        grace: float = 10.0,
        limits: Limits | None = None,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        left_out = [name for name, given in (("routes", service.routes), ("methods", service.methods)) if given]
        if left_out:
            raise Misconfigured(
                f"service {service.name!r} has {' and '.join(left_out)}: inside an application they are the application's; "
                "serve them with `millstream up`"
            )
        self._service = service
        self._engine = engine
        self._sessions = sessions
        self._transport = transport
        self._data = data
        self._partitions = partitions
        self._grace = grace
        self._limits = limits or Limits()
        self._given = instrumentation
        self._stack = AsyncExitStack()
        self._runtime: Runtime | None = None

    async def __aenter__(self) -> Self:
        from .orm import SqlalchemyStore

        async with AsyncExitStack() as stack:
            instrumentation = self._given
            if instrumentation is None:
                instrumentation = telemetry = Telemetry.from_environment(os.environ)
                stack.push_async_callback(telemetry.close)
            clock = SystemClock()
            composition = Composition(
                open_store=lambda _: SqlalchemyStore(
                    self._engine, sessions=self._sessions, clock=clock, instrumentation=instrumentation
                ),
                transport=open_transport(self._transport, AdapterContext(self._data, clock, instrumentation)),
                data=self._data,
                clock=clock,
                instrumentation=instrumentation,
                limits=self._limits,
                partitions=self._partitions,
            )
            self._runtime = await stack.enter_async_context(Runtime([self._service], composition))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._runtime is not None:
                await self._runtime.stop(self._grace)
        finally:
            self._runtime = None
            await self._stack.aclose()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:
        """What FastAPI and Starlette take as `lifespan`."""
        async with self:
            yield

    @property
    def ready(self) -> bool:
        """Whether every worker has looked at its claims: for the application's own probe."""
        return self._runtime is not None and self._runtime.ready
