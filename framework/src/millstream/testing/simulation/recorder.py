"""Instrumentation of a simulated process: log lines become part of the run's story, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from ...ports.instrumentation import Field, Silent

__all__ = ["Recorder"]


@final
class Recorder(Silent):
    """tell: receives each log line as words."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def log(self, level: str, event: str, **fields: Field) -> None:
        self._tell(f"{level} {event} " + " ".join(f"{name}={value}" for name, value in fields.items()))
