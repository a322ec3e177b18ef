"""Many lives of many systems, a few side by side, and the count of what they died of.

A story is a generator: it yields a worker and is given its end, as often as it likes, and ends by judging what is left.
"""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import suppress

from .forked import End, Forked

__all__ = ["Story", "Tally", "play"]

Story = Generator[Forked, End, None]


class Tally:
    """Kills by point, over as many campaigns as it is handed to."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.lives = 0
        self.missed: Counter[str] = Counter()
        """Lives that ended before they came to the point they were to die at."""

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    def note(self, end: End, meant: str = "") -> None:
        """One life is over; `meant`: the point that it was to die at."""
        self.lives += 1
        if end.how == "killed":
            self.kills[end.point] += 1
        elif meant:
            self.missed[meant] += 1

    def table(self) -> list[str]:
        """Lines to print."""
        width = max(map(len, self.kills), default=0)
        lines = [f"{point:<{width}}  {self.kills[point]:>5}" for point in sorted(self.kills)]
        return [*lines, f"{'kills in all':<{width}}  {self.total:>5}   at {len(self.kills)} points, {self.lives} lives"]


def play(stories: Iterable[Story], lanes: int = 2) -> None:
    """Play all stories, `lanes` at a time. An exception of one ends all: workers under way are killed."""
    waiting = iter(stories)
    running: dict[Forked, Story] = {}
    try:
        while True:
            while len(running) < lanes and (story := next(waiting, None)) is not None:
                running[next(story)] = story
            if not running:
                return
            readable, _, _ = select.select(list(running), [], [], min(worker.timeout() for worker in running))
            due = [worker for worker in running if worker in readable or worker.timeout() == 0]
            for worker in due:
                end = worker.step()
                if end is None:
                    continue
                story = running.pop(worker)
                with suppress(StopIteration):
                    running[story.send(end)] = story
    finally:
        for worker in running:
            worker.kill()
