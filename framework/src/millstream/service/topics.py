"""Which topics a service reads and writes, as far as its declarations say: for provisioning, `check` and AsyncAPI.

What a handler publishes is read from its return type; what routes, contract methods and `tx.publish` publish cannot be
seen and is declared with `Service.emits`. An event that is declared nowhere can still be published: its topic must then
be provisioned by hand (`millstream provision --topic`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args, get_type_hints

import msgspec

from ..message import EventType
from .service import Service

__all__ = ["TopicUse", "consumed_by", "published_by", "topics_of"]


class TopicUse(msgspec.Struct, frozen=True, eq=False):
    """One topic over all services."""

    topic: str
    events: tuple[EventType, ...]
    """Every event of it that somebody publishes or reads, by name and version."""
    publishers: tuple[str, ...]
    """Names of services."""
    subscriptions: tuple[tuple[str, str], ...]
    """(service, subscription)."""


def consumed_by(service: Service) -> tuple[EventType, ...]:
    """The events that a service's subscriptions name, each once, ordered by topic, name and version."""
    return _ordered(declared for consumes in service.consumes for declared in consumes.events)


def published_by(service: Service) -> tuple[EventType, ...]:
    """The events that a service declares or that its functions name in their return types, ordered likewise."""
    functions: list[Callable[..., Any]] = [
        *(consumes.function for consumes in service.consumes),
        *(schedule.function for schedule in service.schedules),
    ]
    returned = (declared for function in functions for declared in _events_in(_return_type(function)))
    return _ordered([*service.publishes, *returned])


def topics_of(services: Iterable[Service]) -> tuple[TopicUse, ...]:
    """Every topic that the services use, by name."""
    events: dict[str, list[EventType]] = {}
    publishers: dict[str, list[str]] = {}
    subscriptions: dict[str, list[tuple[str, str]]] = {}
    for service in services:
        for declared in published_by(service):
            events.setdefault(declared.topic, []).append(declared)
            names = publishers.setdefault(declared.topic, [])
            if service.name not in names:
                names.append(service.name)
        for consumes in service.consumes:
            events.setdefault(consumes.topic, []).extend(consumes.events)
            subscriptions.setdefault(consumes.topic, []).append((service.name, consumes.name))
    return tuple(
        TopicUse(
            topic,
            _ordered(events[topic]),
            tuple(sorted(publishers.get(topic, ()))),
            tuple(sorted(subscriptions.get(topic, ()))),
        )
        for topic in sorted(events)
    )


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None  # binding the handler names the type that cannot be resolved


def _events_in(hint: Any) -> Iterator[EventType]:
    """Events in a return type: itself, members of a union, items of a list, a tuple or an iterator."""
    declared = getattr(hint, "__dict__", {}).get("__millstream_event__")
    if declared is not None:
        yield declared
    for inner in get_args(hint):
        yield from _events_in(inner)


def _ordered(events: Iterable[EventType]) -> tuple[EventType, ...]:
    unique = {id(declared.cls): declared for declared in events}
    return tuple(sorted(unique.values(), key=lambda declared: (declared.topic, declared.name, declared.version)))
