"""Small replies that are no route of a service: probes, metrics, API descriptions. Mounted as `extra_routes`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

__all__ = ["Document", "document"]


class Document(NamedTuple):
    """What an endpoint answers."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


def document(path: str, make: Callable[[], Document | Awaitable[Document]]) -> StarletteRoute:
    """Serve `make()` under GET and HEAD of a path, computed anew for each request.

    ```python
    document("/health/ready", lambda: Document(b"ok" if ready else b"draining", "text/plain", 200 if ready else 503))
    ```
    """

    async def endpoint(_: Request) -> Response:
        made = make()
        answer = made if isinstance(made, Document) else await made
        return Response(
            answer.body,
            answer.status,
            {"cache-control": "no-store", "x-content-type-options": "nosniff"},
            media_type=answer.content_type,
        )

    return StarletteRoute(path, endpoint, methods=["GET"])
