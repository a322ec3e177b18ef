"""What the factory of a resource may ask for: where it runs, and its service's own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..ids import Entropy
from ..ports.instrumentation import Instrumentation
from ..ports.store import Store

__all__ = ["ServiceContext"]


@dataclass(frozen=True)
class ServiceContext:
    """Given by type to resource factories.

    data: folder for files of this service. settings: its table `[services.NAME]`. http_url: where this process serves
    HTTP, without a final slash; empty while it serves none. open_store: another database on the engine of the service's own
    store, by a name that no service has; enter it with `async with`. Where several workers may share the service's store,
    they may share this one.
    """

    service: str
    data: Path
    settings: Mapping[str, Any]
    clock: Clock
    entropy: Entropy
    instrumentation: Instrumentation
    open_store: Callable[[str], Store]
    http_url: str = ""
