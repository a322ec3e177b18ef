"""One line of the table: how a contender is started, what it promises, and what the phases must know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .database import PUBLIC, Tables
from .processes import ROOT
from .workload import Task

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    name: what the command line takes; group: another name, of several rows. shown: for people. order: whether a key's events keep
    their order by design, also after a crash. once: whether an event that is delivered again has no second effect by design. settings: what makes it durable, and how much it does at once. program: the command in
    front of the role. work: another command for the worker. relay: `process` where it runs beside producer and worker, `producer` where it
    lives in the producer's process and `relay` runs it alone. relayed: a query that says how many events have left the outbox. fill: the
    role that writes without relaying. redelivery_seconds: how long an engine keeps a message for a worker that was killed.
    """

    name: str
    group: str
    shown: str
    engines: tuple[str, ...]
    guarantee: Literal["tx", "dual"]
    order: bool
    once: bool
    settings: str
    program: Sequence[str]
    work: Sequence[str] = ()
    provisions: bool = False
    relay: Literal["none", "process", "producer"] = "none"
    relayed: str = ""
    fill: str = "produce"
    per_tx: int = 1
    kills: bool = True
    kill_events: int = 5_000
    redelivery_seconds: float = 0.0
    tables: Tables = PUBLIC
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def command(self, task: Task) -> list[str]:
        """What starts the program for a task."""
        if task.role == "work" and self.work:
            return list(self.work)
        return [*self.program, *task.arguments()]

    @property
    def missing(self) -> str:
        """What must be there before it can run, if it is not."""
        first = Path(self.program[0])
        return "" if first.exists() else f"{first.relative_to(ROOT)} is missing"
