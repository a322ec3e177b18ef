"""The HTTP application of a runtime: the services' routes, probes, metrics, documents and the admin API, on one port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ..caller import Caller
from ..delivery.operations import StoreOperations
from ..errors import Transient
from ..http.admin import AdminSystem, admin_app
from ..http.app import HttpApp, HttpBinding, build_app
from ..http.asyncapi import asyncapi_json
from ..http.auth import Authenticate, BearerTokens, TokenRules
from ..http.development import development_key
from ..http.documents import Document, document
from ..http.keys import Fetch, JwksAddress, KeySource, StaticKeys, keys_from_file, keys_from_text
from ..http.limits import Limits as HttpLimits
from ..http.openapi import openapi_document
from ..service.topics import topics_of
from .runtime import Runtime
from .settings import Auth, Settings

if TYPE_CHECKING:
    from .forwarding import Forwarding  # brings an HTTP client, which would cost every start a tenth of a second

__all__ = ["VERSION", "Probes", "authenticator", "build_edge", "caller_of", "key_source", "no_fetch"]

VERSION = version("millstream")


class Probes:
    """What the probes answer. `live` stays true while the process drains; `ready` does not."""

    def __init__(self, runtime: Runtime, others: Callable[[], Awaitable[bool]] | None = None) -> None:
        """`others`: whether the processes this one answers for are ready, too."""
        self._runtime = runtime
        self._others = others
        self.serving = False
        """Set once the port is open, cleared when a drain begins."""

    def live(self) -> Document:
        """200 as long as the event loop answers."""
        return Document(b'{"status":"live"}')

    async def ready(self) -> Document:
        """200 when requests should be sent here."""
        if self.serving and self._runtime.ready and (self._others is None or await self._others()):
            return Document(b'{"status":"ready"}')
        return Document(b'{"status":"not ready"}', status=503)


def build_edge(
    runtime: Runtime,
    settings: Settings,
    probes: Probes,
    metrics: Callable[[], tuple[bytes, str]],
    admin_token: str,
    fetch: Fetch,
    stopping: asyncio.Event,
    extra: Sequence[BaseRoute] = (),
    forwarding: Forwarding | None = None,
) -> HttpApp:
    """The application. With `forwarding` it answers for the processes of other services, too.

    Raises:
        Misconfigured: a route cannot be bound; lists every problem.
    """
    c = runtime.composition
    services = forwarding.everything if forwarding else runtime.services
    bindings = [
        HttpBinding(b.service.name, b.service.routes, b.store, b.origin, b.resources) for b in runtime.bound.values()
    ]
    limits = HttpLimits(body_bytes=settings.http.body_limit_bytes)
    authenticate = authenticator(runtime, settings, fetch)
    system = AdminSystem(
        operations={
            **(forwarding.operations() if forwarding else {}),
            **{
                name: StoreOperations(name, bound.store, c.clock, [s.name for s in bound.service.consumes if s.effect])
                for name, bound in runtime.bound.items()
            },
        },
        transport=c.transport,
        topics=topics_of(services),
        clock=c.clock,
        ids=runtime.ids,
        verify=caller_of(authenticate),
        admin_token=admin_token,
        beyond_loopback=settings.http.admin_beyond_loopback,
        stopping=stopping,
    )
    openapi = _Lazy(lambda: openapi_document(bindings, title="Millstream", version=VERSION))
    asyncapi = _Lazy(lambda: asyncapi_json(services, version=VERSION))

    async def exposition() -> Document:
        body, content_type = metrics()
        return Document(await forwarding.metrics(body) if forwarding else body, content_type)

    async def described() -> Document:
        return Document(await forwarding.openapi(openapi()) if forwarding else openapi())

    app = build_app(
        bindings,
        authenticate=authenticate,
        clock=c.clock,
        ids=runtime.ids,
        instrumentation=c.instrumentation,
        limits=limits,
        extra_routes=[
            document("/live", probes.live),
            document("/ready", probes.ready),
            document("/metrics", exposition),
            document("/openapi.json", described),
            document("/asyncapi.json", lambda: Document(asyncapi())),
            *extra,
            *(forwarding.routes() if forwarding else ()),
            _Below("/admin", admin_app(system)),
        ],
    )
    runtime.pacer.busy = lambda: app.admission.in_flight > 0
    return app


def authenticator(runtime: Runtime, settings: Settings, fetch: Fetch) -> BearerTokens:
    """Who a bearer token stands for, by the settings."""
    auth = settings.auth
    rules = TokenRules(
        audience=auth.audience or None,
        issuer=auth.issuer or None,
        roles_claim=auth.roles_claim,
        tenant_claim=auth.tenant_claim,
    )
    return BearerTokens(key_source(auth, settings, runtime, fetch), runtime.composition.clock, rules)


def caller_of(authenticate: Authenticate) -> Callable[[str], Awaitable[Caller]]:
    """The caller of a bearer token."""

    async def caller(token: str) -> Caller:
        identity = await authenticate(token)
        return Caller(identity.subject, identity.roles, identity.tenant)

    return caller


def key_source(auth: Auth, settings: Settings, runtime: Runtime, fetch: Fetch) -> KeySource:
    """Where tokens' keys come from: a configured issuer, or the development key of the data folder."""
    if auth.public_key:
        return keys_from_text(auth.public_key.encode(), Path("auth.public_key"))
    if auth.jwks.startswith(("http://", "https://")):
        return JwksAddress(auth.jwks, fetch, runtime.composition.clock, runtime.composition.instrumentation)
    if auth.jwks:
        return keys_from_file(settings.data / auth.jwks)
    return StaticKeys([development_key(settings.development_key, runtime.composition.entropy).verifying()])


class _Below(BaseRoute):
    """Hands every request below a path to an application, as it came."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        self._prefix = f"{path}/"
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        below = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        return (Match.FULL if below else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Lazy:
    """A document that is made when first asked for: start-up does not wait for it."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._made: bytes | None = None

    def __call__(self) -> bytes:
        if self._made is None:
            self._made = self._make()
        return self._made


async def no_fetch(url: str) -> bytes:
    """For systems whose keys come from files."""
    raise Transient(f"{url}: nothing fetches keys here")
