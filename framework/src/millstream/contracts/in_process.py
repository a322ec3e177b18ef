"""Calls between services of one process: the same bytes, deadlines and errors as over gRPC.

What crosses is bytes in both directions, errors included, so no service can come to depend on sharing memory with
another. A call is refused while a transaction of this process is being driven (rule T3).
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ..caller import Caller
from ..clock import Clock
from ..delivery.driving import in_transaction
from ..errors import ForeignWait
from ..ports.instrumentation import Instrumentation
from ..resilience.deadline import DeadlineExceeded
from ..service.contract import Status
from .dispatch import Dispatcher, error_of
from .errors import rpc_error_of
from .time_limit import TimeLimit

__all__ = ["InProcessChannel", "calling_line"]

_PACKAGE = str(Path(__file__).parents[1])


class InProcessChannel:
    """The `Channel` to the services that a dispatcher of this process serves."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock, instrumentation: Instrumentation) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._instrumentation = instrumentation

    async def call(self, service: str, method: str, request: bytes, caller: Caller, timeout: float) -> bytes:
        """As `Channel.call`. After a deadline the work may still be done: its commit is not taken back.

        Raises:
            RpcError: what the method answered; `DEADLINE_EXCEEDED` after `timeout` or the caller's own deadline,
                whichever comes first, and without any work when that is over already.
            ForeignWait: called inside a transaction.
        """
        if in_transaction():
            raise ForeignWait(calling_line(), f"a call of {service}/{method}")
        now_us = self._clock.now_us()
        deadline_us = now_us + round(timeout * 1e6)
        if caller.deadline_us is not None and caller.deadline_us < deadline_us:
            deadline_us = caller.deadline_us
        if deadline_us <= now_us:
            raise rpc_error_of(DeadlineExceeded("it was over when the call began"))
        attributes = {"contract": service, "method": method}
        with self._instrumentation.span("millstream.contract.call", caller.traceparent, **attributes) as traceparent:
            passed_on = msgspec.structs.replace(caller, deadline_us=deadline_us, traceparent=traceparent)
            try:
                with TimeLimit(self._clock, (deadline_us - now_us) / 1e6):
                    answer = await self._dispatcher.answer(service, method, request, passed_on)
            except DeadlineExceeded as error:
                raise rpc_error_of(error) from None
            if answer.status == Status.OK:
                return answer.body
            raise error_of(answer)


def calling_line() -> str:
    """The innermost line outside of the framework: where the call stands."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - the only way to name the caller's line
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "an unknown place"
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{frame.f_lineno}"
