"""Running the body of a transaction without a task of its own, and catching it when it waits for something else.

A store whose statements run inline drives its work with `drive`: one `send`, no event loop in between, which is what
lets several transactions share one connection without interleaving (rules T2, T3). A store with a network driver
drives its work with `Driven`, from one wait of the session to the next: only those pass.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

from ..errors import ForeignWait

__all__ = ["Driven", "drive", "in_transaction", "watched"]

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
    raise _unwound(body)


class Driven(Generic[R]):
    """A body that runs from one of its session's waits to the next, whenever its driver has what it waited for.

    own: what the session's waits yield. It runs in `context`, that of its caller.
    """

    __slots__ = ("_body", "_context", "_own", "result")

    def __init__(self, body: Coroutine[Any, Any, R], own: object, context: Context) -> None:
        self._body = body
        self._own = own
        self._context = context
        self.result: R
        """What it returned, once `advance` said that it is done."""

    def advance(self) -> bool:
        """Run on; True at the end, False at a wait of the session.

        Raises:
            ForeignWait: it waited for something else; names the file and line. The coroutine has been unwound by then.
            BaseException: what the body raised.
        """
        _depth.value += 1
        try:
            waited = self._context.run(self._body.send, None)
        except StopIteration as done:
            self.result = done.value
            return True
        finally:
            _depth.value -= 1
        if waited is not self._own:
            raise self._context.run(_unwound, self._body)
        return False


class watched(Awaitable[R]):  # noqa: N801 - it reads like the coroutine that it stands for
    """A body as an awaitable whose waits go up to the event loop, but only those of its session.

    own: names of modules (and of what is inside of them); a wait that passes through code of one of them is the session's.

    Raises:
        ForeignWait: it waited for something else; names the file and line. The coroutine has been unwound by then.
        BaseException: what the body raised.
    """

    def __init__(self, body: Coroutine[Any, Any, R], own: tuple[str, ...]) -> None:
        self._body = body
        self._own = own

    def __await__(self) -> Generator[Any, Any, R]:
        value: Any = None
        raised: BaseException | None = None
        while True:
            _depth.value += 1
            try:
                waited: Any = self._body.send(value) if raised is None else self._body.throw(raised)
            except StopIteration as done:
                return done.value
            finally:
                _depth.value -= 1
            if not self._is_own():
                raise _unwound(self._body)
            value = raised = None
            try:
                value = yield waited
            except BaseException as error:  # noqa: BLE001 - a cancellation among them: the body's to deal with
                raised = error

    def _is_own(self) -> bool:
        at: Any = self._body
        while at is not None:
            frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None)
            name = "" if frame is None else frame.f_globals.get("__name__", "")
            if any(name == module or name.startswith(f"{module}.") for module in self._own):
                return True
            at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)
        return False


def _unwound(body: Coroutine[Any, Any, Any]) -> ForeignWait:
    """Unwind a body at its foreign wait, and say where that was."""
    error = _foreign_wait(body)
    try:
        body.throw(error)
    except BaseException:  # noqa: S110, BLE001 - whatever unwinding raises, the foreign wait is the finding
        pass
    else:
        body.close()
    return error


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
