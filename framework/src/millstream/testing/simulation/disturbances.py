"""Everything that goes wrong in a run, numbered, so that a part of it can be left out: how a failing seed shrinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

__all__ = ["Disturbances", "reduce_to_few"]

MOST_TRIES = 60


@final
class Disturbances:
    """keep: the numbers of those that happen; None: all do."""

    def __init__(self, keep: frozenset[int] | None, tell: Callable[[str], object]) -> None:
        self._keep = keep
        self._tell = tell
        self.number = 0
        """How many there were, those that were left out included."""

    def happens(self, what: str) -> bool:
        """Number one that was drawn; False if it is left out."""
        self.number += 1
        if self._keep is not None and self.number not in self._keep:
            return False
        self._tell(f"disturbance {self.number}: {what}")
        return True


def reduce_to_few(numbers: list[int], fails: Callable[[frozenset[int]], bool]) -> list[int]:
    """A part of `numbers` with which it still fails: removing any one more makes it pass, unless the tries ran out.

    Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", the complement half of ddmin.
    """
    size, tries = max(1, len(numbers) // 2), 0
    while numbers:
        at, shrunk = 0, False
        while at < len(numbers) and tries < MOST_TRIES:
            rest = numbers[:at] + numbers[at + size :]
            tries += 1
            if fails(frozenset(rest)):
                numbers, shrunk = rest, True
            else:
                at += size
        if tries >= MOST_TRIES or (size == 1 and not shrunk):
            break
        size = max(1, size // 2)
    return numbers
