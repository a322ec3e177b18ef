"""The OpenAPI 3.1 description of an application, from what its services declare.

The same declarations give the same document, byte for byte: it can be kept in a repository and compared. What it says
is what the edge does: the parameters come from the handlers' plans, the problems from the route's options.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgspec

from ..service.route import Accepted, Created, Reply, Route
from ..signature import Parameter
from .app import HttpBinding, plan_routes
from .bodies import is_pydantic
from .limits import Limits
from .parameters import Plan
from .problems import ProblemDocument

__all__ = ["openapi_document"]

_REF = "#/components/schemas/{name}"
_PROBLEM = "Problem"
_STATUS: dict[type[Any], int] = {Created: 201, Accepted: 202}


def openapi_document(
    bindings: Sequence[HttpBinding], *, title: str, version: str, servers: Sequence[str] = (), description: str = ""
) -> bytes:
    """The document, as JSON.

    Raises:
        Misconfigured: as `build_app` does for the same bindings.
    """
    planned = plan_routes(bindings, Limits())
    schemas = _Schemas([kind for _, route, plan in planned for kind in _types(route, plan)])
    paths: dict[str, dict[str, Any]] = {}
    for binding, route, plan in sorted(planned, key=lambda p: (p[1].path, p[1].method)):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(binding.name, route, plan, schemas)
    info: dict[str, Any] = {"title": title, "version": version}
    if description:
        info["description"] = description
    document: dict[str, Any] = {"openapi": "3.1.0", "info": info}
    if servers:
        document["servers"] = [{"url": url} for url in servers]
    document["tags"] = [{"name": name} for name in sorted({b.name for b in bindings if b.routes})]
    document["paths"] = paths
    document["components"] = {
        "schemas": dict(sorted(schemas.components.items())),
        "responses": {_PROBLEM: _problem_response()},
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _operation(service: str, route: Route, plan: Plan, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": _operation_id(service, route), "tags": [service]}
    text = " ".join((route.handler.__doc__ or "").split())
    if route.summary or text:
        operation["summary"] = route.summary or text.split(". ")[0].rstrip(".")
    if text:
        operation["description"] = text
    parameters = [*_path(plan, schemas), *_query(plan, schemas), *_headers(route)]
    if parameters:
        operation["parameters"] = parameters
    if plan.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(plan.body, schemas)}
    operation["responses"] = _responses(route, plan, schemas)
    operation["security"] = [{}, {"bearer": []}] if route.public else [{"bearer": []}]
    if route.roles:
        operation["x-required-roles"] = sorted(route.roles)
    return operation


def _operation_id(service: str, route: Route) -> str:
    # Two services may name their handlers alike, and one handler may serve two paths.
    name = f"{service}_{route.method.lower()}_{route.path.strip('/') or 'root'}"
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _path(plan: Plan, schemas: _Schemas) -> list[dict[str, Any]]:
    return [{"name": p.name, "in": "path", "required": True, "schema": schemas.of(p.type)} for p in plan.path]


def _query(plan: Plan, schemas: _Schemas) -> list[dict[str, Any]]:
    return [_query_parameter(p, schemas) for p in plan.query]


def _query_parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas.of(parameter.type)
    if not parameter.required and parameter.default is not None:
        schema = {**schema, "default": msgspec.to_builtins(parameter.default)}
    return {"name": parameter.name, "in": "query", "required": parameter.required, "schema": schema}


def _headers(route: Route) -> list[dict[str, Any]]:
    headers: list[dict[str, Any]] = []
    if route.idempotent:
        headers.append(
            {
                "name": "Idempotency-Key", "in": "header", "required": True,
                "description": "Chosen by the client, the same for every repeat of this request: the stored reply is "
                "given again, with `Idempotent-Replayed: true`.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )  # fmt: skip
    headers.append(
        {
            "name": "X-Request-Timeout", "in": "header", "required": False,
            "description": "Seconds the client waits; work that cannot finish in time is not begun.",
            "schema": {"type": "number", "minimum": 0},
        }
    )  # fmt: skip
    return headers


def _responses(route: Route, plan: Plan, schemas: _Schemas) -> dict[str, Any]:
    status, kind = _returned(route)
    good: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if kind not in (None, type(None)):
        good["content"] = _content(kind, schemas)
    if status == 201:
        good["headers"] = {"Location": {"schema": {"type": "string"}}}
    problems = {408, 431, 500, 503, 504}
    problems |= {404} if plan.path else set()
    problems |= {422} if plan.query else set()
    problems |= {400, 411, 413, 415, 422} if plan.body is not None else set()
    problems |= {400, 409, 422} if route.idempotent else set()
    problems |= {409} if plan.tx_at >= 0 else set()
    problems |= set() if route.public else {401}
    problems |= {403} if route.roles else set()
    refused = {str(n): {"$ref": f"#/components/responses/{_PROBLEM}"} for n in sorted(problems)}
    return {str(status): good, **refused}


def _returned(route: Route) -> tuple[int, Any]:
    kind = get_type_hints(route.handler).get("return")
    if kind in (None, type(None)):
        return 204, None
    origin: Any = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Reply):
        return _STATUS.get(cast(type[Any], origin), 200), next(iter(get_args(kind)), Any)
    # A Starlette response says nothing about its body.
    return 200, Any if isinstance(kind, type) and hasattr(kind, "render") else kind


def _content(kind: Any, schemas: _Schemas) -> dict[str, Any]:
    if kind is bytes:
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": schemas.of(kind)}}


def _problem_response() -> dict[str, Any]:
    return {
        "description": "The request was refused (RFC 9457).",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="ProblemDocument")}}},
    }


def _types(route: Route, plan: Plan) -> list[Any]:
    kinds = [plan.body, _returned(route)[1], *(p.type for p in plan.path), *(p.type for p in plan.query)]
    return [kind for kind in kinds if kind is not None and kind is not bytes and kind is not type(None)]


class _Schemas:
    """JSON schemas of types. msgspec describes what it knows, pydantic its own models."""

    def __init__(self, kinds: list[Any]) -> None:
        self._models: dict[str, Any] = {}
        distinct = {str(kind): kind for kind in kinds}
        known = {name: kind for name, kind in distinct.items() if not is_pydantic(kind)}
        described, components = msgspec.json.schema_components(
            [ProblemDocument, *known.values()], schema_hook=self._model, ref_template=_REF
        )
        self._described = dict(zip(known, described[1:], strict=True))
        self._described.update({name: self._model(kind) for name, kind in distinct.items() if is_pydantic(kind)})
        self.components: dict[str, Any] = {**components, **self._models}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type that was given at the start."""
        return self._described[str(kind)]

    def _model(self, kind: Any) -> dict[str, Any]:
        if not is_pydantic(kind):
            raise NotImplementedError(f"{kind!r} has no JSON schema")
        schema = cast(dict[str, Any], kind.model_json_schema(ref_template="#/components/schemas/{model}"))
        self._models.update(schema.pop("$defs", {}))
        self._models[kind.__name__] = schema
        return {"$ref": _REF.format(name=kind.__name__)}
