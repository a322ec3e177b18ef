"""What ends a simulated run, or a simulated process."""

from __future__ import annotations

from ...errors import MillstreamError

__all__ = ["Deadlock", "NotSimulated", "ProcessDied", "Stuck"]


class Deadlock(MillstreamError):
    """Nothing can run any more and no timer is set; the message says who waits for what."""


class Stuck(MillstreamError):
    """The run took more steps or more virtual time than it may; the message says who waits for what."""


class NotSimulated(MillstreamError):
    """Code reached for the machine: a socket, a thread, a process, a signal. It belongs behind a port."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} does not exist in a simulation: reach it through a port (store, transport, clock, an injected client) "
            "and give the composition a simulated one"
        )


class ProcessDied(BaseException):
    """Raised in the code of a simulated process that was killed during its own step, whenever it reaches for anything
    outside itself. It is no Exception: what catches everything else lets it pass, and nothing it does has an effect."""
