"""What every request passes before its route: a place among those under way, and the switch for draining (rule C6).

Durable subscriptions only ever block; here, at the edge, is where load is shed: a request over the bound is refused at
once, with a time to come back, instead of waiting behind others until nobody wants its reply.
"""

from __future__ import annotations

from ..ports.instrumentation import Instrumentation
from .limits import Limits
from .problems import Problem

__all__ = ["Admission"]


class Admission:
    """Counts the requests under way. `draining` is set when a shutdown begins: replies then close their connections."""

    __slots__ = ("_instrumentation", "_labels", "_limits", "draining", "in_flight")

    def __init__(self, limits: Limits, instrumentation: Instrumentation, name: str) -> None:
        self._limits = limits
        self._instrumentation = instrumentation
        self._labels = (("service", name),)
        self.in_flight = 0
        self.draining = False
        instrumentation.gauge("millstream_http_in_flight", self._labels, lambda: float(self.in_flight))

    def enter(self) -> None:
        """Take a place; `leave` gives it back.

        Raises:
            Problem: 503, all places are taken.
        """
        if self.in_flight >= self._limits.in_flight:
            self._instrumentation.count("millstream_http_shed_total", self._labels)
            raise Problem(
                503,
                "too many requests are under way; come back a little later",
                problem="busy",
                retry_after=self._limits.retry_after_seconds,
            )
        self.in_flight += 1

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
