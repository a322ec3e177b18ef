"""Running the body of a transaction without a task of its own, and catching it when it waits for something else.

A store whose statements run inline drives its work with `drive`: one `send`, no event loop in between, which is what
lets several transactions share one connection without interleaving (rules T2, T3). A store with a network driver
wraps its work in `watch`, which lets only the session's own waits through.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import ForeignWait

__all__ = ["drive", "in_transaction"]

R = TypeVar("R")
_STDLIB = sysconfig.get_path("stdlib")


class _Depth:
    """How many transaction bodies are on this thread's stack. Bodies run to their end or to a wait, so it is exact."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


# An instance: to set an attribute of a class would throw away the interpreter's caches for it, with every transaction.
_depth = _Depth()


def in_transaction() -> bool:
    """Whether the code that asks runs inside a transaction's body: clients of the outside must refuse then."""
    return _depth.value > 0


def drive(body: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that must not suspend, and return its result.

    Raises:
        ForeignWait: it suspended; names the file and line of the wait. The coroutine has been unwound by then.
    """
    _depth.value += 1
    try:
        body.send(None)
    except StopIteration as done:
        return done.value
    finally:
        _depth.value -= 1
    error = _foreign_wait(body)
    try:
        body.throw(error)
    except BaseException:  # noqa: S110, BLE001 - whatever unwinding raises, the foreign wait is the finding
        pass
    else:
        body.close()
    raise error


def _foreign_wait(body: Coroutine[Any, Any, Any]) -> ForeignWait:
    """Walk down the chain of awaits to the last line of user code, and name what it waits for."""
    where, waiting_for = "", ""
    at: Any = body
    while at is not None:
        # A coroutine names its frame and what it awaits one way, a generator-based one the other.
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None)
        inner = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)
        name = getattr(at, "__qualname__", type(at).__name__)
        if frame is not None and not frame.f_code.co_filename.startswith(_STDLIB):
            file = "/".join(frame.f_code.co_filename.split("/")[-2:])
            where, waiting_for = f"{file}:{frame.f_lineno}", ""
        elif not waiting_for:
            module = frame.f_globals.get("__name__", "").split(".")[0] + "." if frame is not None else ""
            waiting_for = f"{module}{name}"
        at = inner
    return ForeignWait(where or "an unknown place", waiting_for or "a future")
