"""Exit codes, and the errors that lead to them."""

from __future__ import annotations

from typing import Final

from ..errors import MillstreamError

__all__ = ["Exit", "NotReachable", "Problem"]


class Exit:
    """What a command's exit code says."""

    OK: Final = 0
    PROBLEMS: Final = 1
    """Problems were found, or the system refused."""
    USAGE: Final = 2
    """Wrong usage or configuration: nothing was done."""
    NOT_REACHABLE: Final = 3


class NotReachable(MillstreamError):
    """Nobody answers at the address."""


class Problem(MillstreamError):
    """The running system refused a request: status, and its words."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(f"{title}: {detail}" if detail else f"{title} ({status})")
        self.status = status
        self.title = title
        self.detail = detail
