"""What an exception of a handler means for its message: one table.

| raised | outcome |
|---|---|
| nothing | applied |
| `Drop` | dropped: accepted, without effect |
| `Permanent` and below (`Refused`, `Undecodable`, `ForeignWait`, …), `Misconfigured` | dead letter at once |
| `BreakerOpen`, by an effect | none: the start is given back, due again when the breaker says so |
| `ClaimLost`, `StoreUnavailable`, cancellation | none: not the message's fault, it runs again without blame |
| anything else | retry; a dead letter once the attempts are used up |
"""

from __future__ import annotations

import asyncio
from typing import Literal

from ..errors import ClaimLost, Drop, Misconfigured, Permanent, StoreUnavailable

__all__ = ["Verdict", "describe", "verdict_of"]

Verdict = Literal["drop", "dead", "retry"]
_BLAMELESS = (ClaimLost, StoreUnavailable, asyncio.CancelledError)


def verdict_of(error: BaseException, attempt: int, attempts: int) -> Verdict:
    """The outcome after the `attempt`-th try (from 1) of `attempts` ended in `error`.

    Raises:
        BaseException: `error` itself, when it says nothing about the message.
    """
    if isinstance(error, _BLAMELESS) or not isinstance(error, Exception):
        raise error
    if isinstance(error, Drop):
        return "drop"
    if isinstance(error, Permanent | Misconfigured) or attempt >= attempts:
        return "dead"
    return "retry"


def describe(error: BaseException) -> str:
    """An error as it is stored with a parked message or a dead letter: type, words, and where it was raised."""
    trace = error.__traceback__
    where = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        where = f" at {'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno} ({code.co_name})"
        trace = trace.tb_next
    # Somebody else's words may hold what no store keeps as text: a NUL, half of a surrogate pair.
    words = f"{type(error).__name__}: {error}{where}"[:2_000].replace("\0", "\\0")
    return words.encode(errors="backslashreplace").decode()
