"""Finding adapters by entry point, so that others can ship theirs: groups `millstream.stores`,
`millstream.transports`, `millstream.intakes`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from ..clock import Clock
from ..errors import Misconfigured
from ..ports.instrumentation import Instrumentation
from ..ports.intake import IntakeSource
from ..ports.store import Store
from ..ports.transport import Transport

__all__ = ["AdapterContext", "open_intake", "open_store", "open_transport"]


@dataclass(frozen=True)
class AdapterContext:
    """What a transport's factory receives beside its URL. keep_seconds: how long read records stay (rule L4)."""

    data: Path
    clock: Clock
    instrumentation: Instrumentation
    keep_seconds: float = 3 * 86_400.0


def open_store(url: str, service: str, data: Path, clock: Clock, instrumentation: Instrumentation) -> Store:
    """The store that a URL names, not opened yet.

    Raises:
        Misconfigured: no adapter has this name; lists the installed ones.
    """
    factory = _factory("millstream.stores", "store", url)
    return cast(Store, factory(url, service=service, data=data, clock=clock, instrumentation=instrumentation))


def open_transport(url: str, context: AdapterContext) -> Transport:
    """The transport that a URL names, not opened yet.

    Raises:
        Misconfigured: no adapter has this name; lists the installed ones.
    """
    return cast(Transport, _factory("millstream.transports", "transport", url)(url, context))


def open_intake(url: str, context: AdapterContext) -> IntakeSource:
    """The foreign queue that a URL names, not opened yet.

    Raises:
        Misconfigured: no adapter has this name; lists the installed ones.
    """
    return cast(IntakeSource, _factory("millstream.intakes", "intake", url)(url, context))


def _factory(group: str, kind: str, url: str) -> Any:
    name = url.partition(":")[0]
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none: is millstream installed?"
        raise Misconfigured(f"{kind} {url!r}: there is no adapter {name!r}; installed are {known}")
    return found[name].load()
