"""One endpoint for what the admin API of another process asks of a service that runs here: `Operations`, call by call.

`POST /admin/operations/{service}/{call}` takes the call's arguments as a JSON object and answers its result. Arguments
and results are those of the protocol, converted by its own types: nothing is kept alike by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_type_hints

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..delivery.operations_api import Operations
from .admin_system import AdminSystem, Endpoint, body_of, operations_of, reply
from .problems import Problem

__all__ = ["CALLS", "ENDPOINTS"]

_NAMES = (
    "lanes", "positions", "dead_letters", "dead_letter", "redrive", "drop", "outbox", "held_row", "free_key", "edit_row",
    "drop_row", "skip",
)  # fmt: skip
CALLS: Mapping[str, Mapping[str, Any]] = {name: get_type_hints(getattr(Operations, name)) for name in _NAMES}
"""The types of each call's arguments, and of its result under `return`."""


async def _operate(system: AdminSystem, request: Request) -> Response:
    (operations,) = operations_of(system, request.path_params["service"])
    name = request.path_params["call"]
    types = CALLS.get(name)
    if types is None:
        raise Problem(404, f"there is no call {name!r}; there are: {', '.join(CALLS)}")
    given = await body_of(request, dict[str, Any])
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        if key not in types or key == "return":
            raise Problem(422, f"{name} takes no {key!r}")
        try:
            arguments[key] = msgspec.convert(value, types[key], builtin_types=())
        except msgspec.ValidationError as error:
            raise Problem(422, f"{name}: {key}: {error}") from error
    try:
        call = getattr(operations, name)(**arguments)
    except TypeError as error:
        raise Problem(422, f"{name}: {error}") from error
    return reply(cast(object, await call))


ENDPOINTS: list[tuple[str, str, Endpoint]] = [("POST", "/admin/operations/{service}/{call}", _operate)]
