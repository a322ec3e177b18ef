"""Who waits for what: the words of a deadlock report."""

from __future__ import annotations

import asyncio
import sysconfig
from collections.abc import Iterable
from typing import Any

__all__ = ["describe_waits", "where"]

_STDLIB = sysconfig.get_path("stdlib")
LONGEST = 60
"""Lines of a report; more is no longer read."""


def describe_waits(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """One line for each task that is not done: its name, the line of its innermost wait, and what that is for."""
    lines = [f"  {task.get_name()}: {where(task)}" for task in tasks if not task.done()]
    if len(lines) > LONGEST:
        lines[LONGEST:] = [f"  … and {len(lines) - LONGEST} more"]
    return "\n".join(lines) or "  no task is left"


def where(task: asyncio.Task[Any]) -> str:
    """`file:line in function, for …` of the innermost frame that is not the standard library's."""
    at: Any = task.get_coro()
    place, what = "not started", "its first step"
    awaited = getattr(task, "_fut_waiter", None)
    while at is not None:
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
        inner = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None) or getattr(at, "ag_await", None)
        name = getattr(at, "__qualname__", type(at).__name__)
        if frame is None:
            break
        if not frame.f_code.co_filename.startswith(_STDLIB):
            file = "/".join(frame.f_code.co_filename.split("/")[-2:])
            place, what = f"{file}:{frame.f_lineno} in {name}", "a future" if awaited is not None else "its next step"
        else:
            what = name  # of the standard library, for instance Lock.acquire
        at = inner
    if isinstance(awaited, asyncio.Task):
        what = f"task {awaited.get_name()}"
    return f"{place}, for {what}"
