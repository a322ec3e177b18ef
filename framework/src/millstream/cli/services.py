"""Loading the services that the settings name, with the working directory on the import path."""

from __future__ import annotations

import sys
from pathlib import Path

from ..runtime.services import load_services as load
from ..runtime.settings import Settings
from ..service.service import Service

__all__ = ["import_from_here", "load_services"]


def load_services(settings: Settings) -> list[Service]:
    """The declared services. Raises `Misconfigured` where there are none."""
    import_from_here()
    return load(settings.app)


def import_from_here() -> None:
    """Let `shop.services:all` be found in the working directory, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
