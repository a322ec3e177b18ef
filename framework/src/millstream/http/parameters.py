"""From a handler's parameters to what fills them, worked out once, when the application is built.

| type | filled with |
|---|---|
| a struct, dataclass, pydantic model, list or dict | the body, decoded and validated |
| `bytes` | the body as it came |
| `Tx` | the transaction that the handler then runs in |
| `Query` | reads of committed rows |
| `Caller`, `Headers`, `Address` | who calls, what they sent along, where from |
| a name in braces of the path | that segment, converted to the parameter's type |
| a resource or contract of the service | it |
| `str`, `int`, `float`, `bool`, enums, dates, lists of them | the query parameter of that name |
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, is_typeddict

import msgspec

from ..caller import Caller
from ..delivery.tx import Query, Tx
from ..errors import Misconfigured
from ..ports.store import Store
from ..service.contract import Contract
from ..service.route import Route
from ..signature import Parameter, parameters_of, where
from .bodies import Decode, body_decoder, is_pydantic, place_of
from .limits import Limits
from .problems import Place, Problem
from .requests import Address, Headers, Incoming
from .routing import names_in

__all__ = ["Fill", "Plan", "plan_route"]

Fill = Callable[[Incoming], Any]

_SCALARS = (str, int, float, bool, dt.date, dt.datetime, dt.time, uuid.UUID, decimal.Decimal)
_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS")
_INT64 = 1 << 63


class Plan(msgspec.Struct, frozen=True, eq=False):
    """How one handler is called. `fills` has an entry for each parameter; at `tx_at` stands the transaction's."""

    fills: tuple[Fill, ...]
    tx_at: int = -1
    decode: Decode | None = None
    body: Any = None
    """The type of the body: `bytes`, or what `decode` makes. None: the handler takes no body."""
    path: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()


def plan_route(route: Route, store: Store, resources: Mapping[type[Any], object], limits: Limits) -> Plan:
    """Work out a route's plan.

    Raises:
        Misconfigured: a parameter cannot be filled, or the route's options contradict the handler. Lists all.
    """
    return _Planner(route, store, resources, limits).plan()


class _Planner:
    def __init__(self, route: Route, store: Store, resources: Mapping[type[Any], object], limits: Limits) -> None:
        self.route = route
        self.store = store
        self.resources = resources
        self.limits = limits
        self.place = f"{where(route.handler)}: {route.method} {route.path}"
        self.problems: list[str] = []
        self.names = names_in(route.path)
        self.fills: list[Fill] = []
        self.path: list[Parameter] = []
        self.query: list[Parameter] = []
        self.contracts: list[str] = []
        self.tx_at = -1
        self.reads = False
        self.decode: Decode | None = None
        self.body: Any = None

    def plan(self) -> Plan:
        for at, parameter in enumerate(parameters_of(self.route.handler)):
            fill = self._given(at, parameter)
            if fill is None and parameter.name in self.names:
                fill = self._segment(parameter)
            if fill is None and parameter.type in self.resources:
                fill = self._resource(parameter.type)
            if fill is None and _is_scalar(_item(parameter.type)):
                fill = self._query(parameter)
            if fill is None:
                fill = self._body(parameter)
            self.fills.append(fill)
        self._check()
        if self.problems:
            raise Misconfigured(self.problems)
        return Plan(tuple(self.fills), self.tx_at, self.decode, self.body, tuple(self.path), tuple(self.query))

    def _given(self, at: int, parameter: Parameter) -> Fill | None:
        kind = parameter.type
        if kind is Tx:
            self.tx_at = at
            return lambda _: None
        if kind is Query:
            self.reads = True
            query = Query(self.store.query)
            return lambda _: query
        if kind is Caller:
            return lambda incoming: incoming.caller
        if kind is Headers:
            return lambda incoming: Headers(incoming.headers)
        if kind is Address:
            return lambda incoming: incoming.address()
        return None

    def _resource(self, kind: Any) -> Fill:
        resource = self.resources[kind]
        if _is_contract(kind):
            self.contracts.append(kind.__name__)
        return lambda _: resource

    def _segment(self, parameter: Parameter) -> Fill:
        if not _is_scalar(parameter.type):
            self.problems.append(f"{self.place}: path parameter {parameter.name!r} must be a str, an int or the like")
        self.path.append(parameter)
        index = self.names.index(parameter.name)
        if parameter.type is str:
            return lambda incoming: incoming.values[index]
        kind = parameter.type

        def convert(incoming: Incoming) -> Any:
            try:
                return _convert(incoming.values[index], kind)
            except msgspec.ValidationError:
                raise Problem(404, "there is nothing under this path") from None

        return convert

    def _query(self, parameter: Parameter) -> Fill:
        self.query.append(parameter)
        name, kind, default, required = parameter.name, parameter.type, parameter.default, parameter.required
        several = get_origin(_plain(kind)) in (list, tuple)
        limit = self.limits.query_parameters

        def convert(incoming: Incoming) -> Any:
            values = incoming.query(limit).get(name)
            if values is None:
                if required:
                    raise _wrong_query(name, "is required")
                return default
            if not several and len(values) > 1:
                raise _wrong_query(name, "is given several times")
            try:
                return _convert(values if several else values[0], kind)
            except msgspec.ValidationError as error:
                raise _wrong_query(name, place_of(error).message) from None

        return convert

    def _body(self, parameter: Parameter) -> Fill:
        kind: Any = parameter.type
        if kind is bytes:
            self._claim_body(kind)
            return lambda incoming: incoming.raw
        if _is_contract(kind):
            self.problems.append(f"{self.place}: nobody provides the contract {_name(kind)} ({parameter.name})")
        elif not _is_body(kind):
            self.problems.append(
                f"{self.place}: nobody provides {parameter.name}: {_name(kind)}. A route takes a "
                "body, Tx, Query, Caller, path and query parameters, and resources and contracts of the service"
            )
        else:
            self._claim_body(kind)
            try:
                self.decode = body_decoder(kind, self.limits.json_depth)
            except TypeError as error:
                self.problems.append(f"{self.place}: the body {parameter.name} cannot be decoded: {error}")
        return lambda incoming: incoming.body

    def _claim_body(self, kind: Any) -> None:
        if self.body is not None:
            self.problems.append(f"{self.place}: takes two bodies; a request has one")
        if self.route.method in _WITHOUT_BODY:
            self.problems.append(f"{self.place}: takes a body, which {self.route.method} does not carry")
        self.body = kind

    def _check(self) -> None:
        route = self.route
        says: list[tuple[bool, str]] = [
            (self.tx_at >= 0 and self.reads, "takes Tx and Query; a Tx reads as well, and sees its own writes"),
            (
                self.tx_at >= 0 and bool(self.contracts),
                f"takes a Tx and {', '.join(self.contracts)}; inside a transaction no other service may be called",
            ),
            (
                route.idempotent and self.tx_at < 0 and not route.forwards_key,
                "idempotent=True stores the reply with the work: take a Tx, or pass the key on with forwards_key=True",
            ),
            (route.forwards_key and self.tx_at >= 0, "forwards_key=True is for routes whose work another service does"),
            (route.forwards_key and not route.idempotent, "forwards_key=True means nothing without idempotent=True"),
            (route.public and bool(route.roles), "is public and asks for roles"),
            (not route.path.startswith("/"), "a path begins with /"),
            (len(set(self.names)) != len(self.names), "a name in braces comes twice"),
        ]
        filled = {p.name for p in self.path}
        says.extend((name not in filled, f"{{{name}}} is no parameter of the handler") for name in self.names)
        self.problems.extend(f"{self.place}: {what}" for wrong, what in says if wrong)


def _convert(value: Any, kind: Any) -> Any:
    converted: Any = msgspec.convert(value, kind, strict=False)
    several = isinstance(converted, (list, tuple))
    for item in cast(list[Any], converted) if several else [converted]:
        if isinstance(item, int) and not -_INT64 <= item < _INT64:
            raise msgspec.ValidationError("must fit into 64 bits")
        if isinstance(item, float) and not math.isfinite(item):
            raise msgspec.ValidationError("must be a finite number")
        if isinstance(item, str) and "\0" in item:
            raise msgspec.ValidationError("must not contain the character NUL")
    return converted


def _plain(kind: Any) -> Any:
    """The type without Annotated, and without None in a union with one other type."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        rest = [a for a in get_args(kind) if a is not type(None)]
        if len(rest) == 1:
            return _plain(rest[0])
    return kind


def _item(kind: Any) -> Any:
    kind = _plain(kind)
    if get_origin(kind) is list or (get_origin(kind) is tuple and get_args(kind)[1:] == (...,)):
        return _plain(get_args(kind)[0])
    return kind


def _is_scalar(kind: Any) -> bool:
    kind = _plain(kind)
    if get_origin(kind) is Literal:
        return True
    return isinstance(kind, type) and (kind in _SCALARS or issubclass(kind, enum.Enum))


def _is_body(kind: Any) -> bool:
    kind = _plain(kind)
    if get_origin(kind) in (list, dict, tuple, Union, types.UnionType) or kind in (dict, list, msgspec.Raw):
        return True
    if is_typeddict(kind) or is_pydantic(kind) or dataclasses.is_dataclass(kind):
        return True
    return isinstance(kind, type) and issubclass(cast(type[Any], kind), msgspec.Struct)


def _is_contract(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(cast(type[Any], kind), Contract)


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _wrong_query(name: str, message: str) -> Problem:
    return Problem(
        422, f"query parameter {name}: {message}", problem="invalid-request", errors=[Place(f"query.{name}", message)]
    )
