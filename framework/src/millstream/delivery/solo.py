"""Last starts run alone: who killed the process is found out, and nobody else is blamed (rules C4, C5).

All calls under way when a process dies look guilty, and a few deaths would make dead letters of innocent ones. So a
message on its last start waits until no other call is under way in the process, and no other begins until it has
ended. Calls that were interrupted less often run side by side as ever: a single kill from outside delays nothing.
"""

from __future__ import annotations

from ..ports.wake import Wake

__all__ = ["Solo"]


class Solo:
    """One for a process, shared by all its consumers of effects."""

    __slots__ = ("_alone", "_under_way", "_waiting", "_wanted_by")

    def __init__(self) -> None:
        self._under_way = 0
        self._alone = False
        self._wanted_by: Wake | None = None
        self._waiting: dict[Wake, None] = {}

    def enter(self, alone: bool, who: Wake) -> bool:
        """Take a place for a call, if it may begin now; otherwise `who` is woken when that has changed."""
        if self._alone or (alone and self._under_way) or (self._wanted_by not in (None, who) and not alone):
            if alone and self._wanted_by is None:
                self._wanted_by = who
            self._waiting[who] = None
            return False
        self._under_way += 1
        if alone:
            self._alone = True
            self._wanted_by = None
        return True

    def leave(self, alone: bool) -> None:
        """Give a place back: the call ended, or never began."""
        self._under_way -= 1
        if alone:
            self._alone = False
        if alone or not self._under_way:
            self._wake()

    def wants_no_more(self, who: Wake) -> None:
        """What `who` wanted to run alone is gone (an operator took it away): the others go on."""
        if self._wanted_by is who:
            self._wanted_by = None
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:
            wake.set()
