"""A limit on how long a block of code may take, for the price of one timer.

Works like `asyncio.timeout`, nests like it, and takes its time from a `Clock`. The bookkeeping with `cancelling` and
`uncancel` is that of `asyncio.timeout` (Python 3.11, `Lib/asyncio/timeouts.py`).
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from ..clock import Clock, Handle
from ..resilience.deadline import DeadlineExceeded

__all__ = ["TimeLimit"]


class TimeLimit:
    """Cancels the block when `seconds` have passed, and raises `DeadlineExceeded` in place of the cancellation.

    Used once, with `with`, inside a task. A cancellation from elsewhere passes through. What the block had committed
    by then stays.
    """

    __slots__ = ("_cancelling", "_clock", "_handle", "_passed", "_seconds", "_task")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._passed = False

    def __enter__(self) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None, "a time limit needs a task to cancel"
        self._task = task
        self._cancelling = task.cancelling()
        self._handle: Handle = self._clock.call_later(self._seconds, self._pass)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        if self._passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlineExceeded("the work did not finish in time; whether it was done may be unknown") from error

    def _pass(self) -> None:
        self._passed = True
        self._task.cancel()
