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
| POST /admin/operations/{service}/{call} | what the edge of a split system asks on behalf of its callers |

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

from ..errors import MillstreamError, Misconfigured
from . import admin_log, admin_operations, admin_store
from .admin_system import AdminSystem, Endpoint
from .auth import bearer_token
from .problems import PROBLEM_JSON, Problem, problem_of

__all__ = ["ROLE", "AdminSystem", "admin_app", "admin_routes"]

ROLE = "operator"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def admin_app(system: AdminSystem) -> ASGIApp:
    """The routes as an application. They carry the whole path, `/admin/…`: hand it requests as they came."""
    return Router(admin_routes(system))


def admin_routes(system: AdminSystem) -> list[Route]:
    """The routes, `/admin/…`, for the `extra_routes` of the application."""
    table = [*admin_store.ENDPOINTS, *admin_log.ENDPOINTS, *admin_operations.ENDPOINTS]
    return [Route(path, _guarded(system, endpoint), methods=[method]) for method, path, endpoint in table]


def _guarded(system: AdminSystem, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            await _authorize(system, request)
            return await endpoint(system, request)
        except Misconfigured as error:
            return _refusal(Problem(422, str(error)))  # a wrong duration in a filter: the caller's mistake
        except MillstreamError as error:
            return _refusal(problem_of(error))

    return respond


async def _authorize(system: AdminSystem, request: Request) -> None:
    client = request.client.host if request.client else ""
    if not system.beyond_loopback and client not in LOOPBACK:
        raise Problem(403, "the admin API answers callers on this machine only")
    authorization = request.headers.get("authorization")
    token = bearer_token(None if authorization is None else authorization.encode("latin-1"), required=True) or ""
    if system.admin_token and hmac.compare_digest(token.encode(), system.admin_token.encode()):
        return
    caller = await system.verify(token)
    if not caller.may(ROLE):
        raise Problem(403, f"{caller.subject} lacks the role {ROLE!r}")


def _refusal(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, problem.headers, media_type=PROBLEM_JSON.decode())
