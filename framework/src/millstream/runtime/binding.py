"""From what a service declares to what the kernel runs: each handler's parameters are filled once, by type."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from ..delivery.subscription import Subscription
from ..delivery.timers import Ticking
from ..delivery.tx import Call, Tx
from ..errors import Misconfigured
from ..service.context import ServiceContext
from ..service.contract import Channel, Contract
from ..service.service import Consumes, Resource, Schedule, Service
from ..signature import Parameter, parameters_of, where

__all__ = ["Resources", "bind_consumes", "bind_schedule", "contracts_wanted", "open_resources"]

Resources = Mapping[type[Any], object]


def bind_consumes(service: str, declared: Consumes, resources: Resources) -> Subscription:
    """A subscription whose handler takes (event, Tx or Call).

    Raises:
        Misconfigured: a parameter cannot be filled; the message says with what it could.
    """
    unit: type[Any] = Call if declared.effect else Tx
    wrong: type[Any] = Tx if declared.effect else Call
    classes = tuple(event.cls for event in declared.events)
    problems: list[str] = []
    fillers: list[object] = []
    event_at = unit_at = -1
    batched = False
    for at, parameter in enumerate(parameters_of(declared.function)):
        fillers.append(None)
        if _is_event(parameter.type, classes):
            event_at = at
        elif get_origin(parameter.type) is list and _is_event(get_args(parameter.type)[0], classes):
            event_at, batched = at, True
        elif parameter.type is unit:
            unit_at = at
        elif parameter.type is wrong:
            kind = (
                "an effect calls the outside and holds no transaction: take a Call"
                if declared.effect
                else (
                    "a handler runs in a transaction: take a Tx, and declare calls to the outside with @service.effect"
                )
            )
            problems.append(f"{where(declared.function)}: parameter {parameter.name!r}: {kind}")
        elif parameter.type in resources:
            fillers[at] = resources[parameter.type]
        else:
            problems.append(_unfilled(declared.function, parameter, classes, resources))
    if event_at < 0:
        names = " | ".join(c.__name__ for c in classes)
        problems.append(f"{where(declared.function)}: no parameter takes the event; type one {names} or list[{names}]")
    if batched and declared.effect:
        problems.append(f"{where(declared.function)}: an effect takes one event at a time, not a list")
    if batched and declared.sequence is not None:
        problems.append(f"{where(declared.function)}: a handler with a sequence takes one event at a time, not a list")
    if declared.sequence is not None:
        problems.extend(
            f"{where(declared.function)}: sequence field {declared.sequence.field!r} is no field of {e.name}"
            for e in declared.events
            if not _has_field(e.cls, declared.sequence.field)
        )
    if problems:
        raise Misconfigured(problems)
    return Subscription(
        service=service,
        name=declared.name,
        topic=declared.topic,
        events=declared.events,
        handle=_caller(declared.function, fillers, event_at, unit_at),
        where=where(declared.function),
        effect=declared.effect,
        batched=batched,
        retry=declared.retry,
        after_dead_letter=declared.after_dead_letter,
        timeout=declared.timeout,
        concurrency=declared.concurrency,
        sequence=declared.sequence,
        start=declared.start,
    )


def bind_schedule(schedule: Schedule, resources: Resources) -> Ticking:
    """A schedule whose handler takes a Tx."""
    fillers: list[object] = []
    unit_at = -1
    for at, parameter in enumerate(parameters_of(schedule.function)):
        fillers.append(None)
        if parameter.type is Tx:
            unit_at = at
        elif parameter.type in resources:
            fillers[at] = resources[parameter.type]
        else:
            raise Misconfigured(_unfilled(schedule.function, parameter, (), resources))
    call = _caller(schedule.function, fillers, -1, unit_at)
    return Ticking(schedule.name, schedule.every, lambda tx: call(None, tx))


def contracts_wanted(service: Service) -> set[type[Contract]]:
    """The contracts that anything of a service takes as a parameter."""
    functions: list[Callable[..., Any]] = [c.function for c in service.consumes]
    functions += [s.function for s in service.schedules]
    functions += [r.handler for r in service.routes]
    functions += [m.handler for m in service.methods]
    return {
        parameter.type
        for function in functions
        for parameter in parameters_of(function)
        if isinstance(parameter.type, type) and issubclass(parameter.type, Contract)
    }


async def open_resources(
    declared: list[Resource],
    context: ServiceContext,
    channel: Channel,
    wanted: set[type[Contract]],
    stack: AsyncExitStack,
) -> dict[type[Any], object]:
    """Make what handlers ask for by type; `stack` closes it again, the last made first."""
    made: dict[type[Any], object] = {contract: contract(channel) for contract in wanted}
    made[ServiceContext] = context
    for resource in declared:
        arguments: list[object] = []
        for parameter in parameters_of(_as_coroutine(resource.factory)):
            if parameter.type not in made:
                raise Misconfigured(_unfilled(resource.factory, parameter, (), made))
            arguments.append(made[parameter.type])
        manager = asynccontextmanager(cast(Callable[..., AsyncGenerator[Any]], resource.factory))
        made[resource.provides] = await stack.enter_async_context(manager(*arguments))
    return made


def _caller(
    function: Callable[..., Awaitable[Any]], fillers: list[object], event_at: int, unit_at: int
) -> Callable[[Any, Any], Awaitable[Any]]:
    if event_at == 0 and unit_at == 1 and len(fillers) == 2:
        return function
    template = tuple(fillers)

    def call(event: Any, unit: Any) -> Awaitable[Any]:
        arguments = list(template)
        if event_at >= 0:
            arguments[event_at] = event
        if unit_at >= 0:
            arguments[unit_at] = unit
        return function(*arguments)

    return call


def _is_event(hint: Any, classes: tuple[type[Any], ...]) -> bool:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return bool(members) and all(member in classes for member in members) and set(members) == set(classes)


def _has_field(cls: type[Any], name: str) -> bool:
    return name in getattr(cls, "__struct_fields__", ()) or name in getattr(cls, "__annotations__", {})


def _unfilled(
    function: Callable[..., Any], parameter: Parameter, events: tuple[type[Any], ...], resources: Resources
) -> str:
    known = sorted({c.__name__ for c in (*events, *resources)} | {"Tx", "Call"})
    name = getattr(parameter.type, "__name__", str(parameter.type))
    return (
        f"{where(function)}: nothing provides parameter {parameter.name!r} of type {name}; "
        f"declare it with @service.resource({name}), or use one of {', '.join(known)}"
    )


def _as_coroutine(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Parameters are read of `async def` functions; an async generator is one for that purpose."""
    from functools import wraps

    @wraps(factory)
    async def stand_in() -> None: ...

    return stand_in
