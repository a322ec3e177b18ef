"""What a supervisor works out from declarations before it starts anything: who is the edge, and who stops before whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import Misconfigured
from ..service.service import Service
from .binding import contracts_wanted
from .settings import Settings

__all__ = ["edge_of", "stages", "variables"]


def edge_of(settings: Settings, services: Sequence[Service]) -> str:
    """The service whose processes answer on the port.

    Raises:
        Misconfigured: the settings name one that is not there.
    """
    names = [service.name for service in services]
    named = settings.split.edge
    if named and named not in names:
        raise Misconfigured(f"split.edge = {named}: no service has this name; there are {', '.join(names)}")
    return named or next((service.name for service in services if service.routes), names[0])


def stages(services: Sequence[Service], edge: str) -> list[list[str]]:
    """The order of stopping: the edge, then callers before those they call. Those who call each other in a circle stop
    together."""
    owners = {method.service: service.name for service in services for method in service.methods}
    calls = {
        service.name: {owners[c.service] for c in contracts_wanted(service) if c.service in owners} - {service.name}
        for service in services
    }
    left = [service.name for service in services if service.name != edge]
    order = [[edge]]
    while left:
        called = {name for caller in left for name in calls[caller]}
        stage = [name for name in left if name not in called] or left
        order.append(stage)
        left = [name for name in left if name not in stage]
    return order


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings by dotted key as environment variables; None: not set."""
    return {
        f"MILLSTREAM_{key.replace('.', '__').upper()}": str(value)
        for key, value in settings.items()
        if value is not None
    }
