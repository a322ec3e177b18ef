"""The admin API: what an operator sees and may do, over HTTP under `/admin`. The CLI and the console speak to it.

| request | meaning |
|---|---|
| GET /admin/lanes | lanes that do not flow, and every subscription's position and lag |
| POST /admin/lanes/skip | move a position forward without handling what lies between |
| GET /admin/dlq, /admin/dlq/{id} | dead letters: by filter, page by page; one with its message |
| POST /admin/dlq/redrive, /admin/dlq/drop | by filter, with `dry_run`; redrive also with `edit` and `rate` |
| GET /admin/outbox, POST /admin/outbox | depth, age, held keys; free, edit or drop a held row |
| GET /admin/outbox/{service}/held | the refused row of one key with its message |
| GET /admin/topics | topics with their partitions, publishers and subscriptions |
| GET /admin/tail | messages of a topic as lines of JSON, followed until the reader goes |
| POST /admin/publish | one event, checked against its declaration, straight to the log |

Every request carries the admin token of this process or a bearer token with the role `operator`. Other machines are
refused unless the settings allow them. Errors are RFC 9457 problems.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from ..errors import MillstreamError, Misconfigured, Permanent, Refused, Transient
from . import admin_log, admin_store
from .admin_system import AdminError, AdminSystem, Endpoint, problem

__all__ = ["ROLE", "AdminSystem", "admin_app"]

ROLE = "operator"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def admin_app(system: AdminSystem) -> ASGIApp:
    """The application. Its routes carry the whole path, `/admin/…`: hand it the request as it came."""
    table = [*admin_store.ENDPOINTS, *admin_log.ENDPOINTS]
    return Router([Route(path, _guarded(system, endpoint), methods=[method]) for method, path, endpoint in table])


def _guarded(system: AdminSystem, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            await _authorize(system, request)
            return await endpoint(system, request)
        except AdminError as error:
            return problem(error.status, error.title, error.detail)
        except Refused as error:
            return problem(409, "Refused", str(error))
        except (Permanent, Misconfigured) as error:
            return problem(422, type(error).__name__, str(error))
        except Transient as error:
            return problem(503, type(error).__name__, str(error))

    return respond


async def _authorize(system: AdminSystem, request: Request) -> None:
    client = request.client.host if request.client else ""
    if not system.beyond_loopback and client not in LOOPBACK:
        raise AdminError(403, "Forbidden", "the admin API answers callers on this machine only")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise AdminError(401, "Unauthorized", "send a bearer token: the admin token, or one with the role 'operator'")
    if system.admin_token and hmac.compare_digest(token.encode(), system.admin_token.encode()):
        return
    try:
        caller = await system.verify(token)
    except MillstreamError as error:
        raise AdminError(401, "Unauthorized", str(error)) from error
    if not caller.may(ROLE):
        raise AdminError(403, "Forbidden", f"{caller.subject} lacks the role {ROLE!r}")
