"""A story: one data folder, some lives that are killed, one that comes to rest, and the judgement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from invariants import violations
from life import Engines, Life, live
from millstream.testing.crash.campaign import Story, Tally
from millstream.testing.crash.forked import Forked
from millstream.testing.removals.removal import INTACT, Removal

__all__ = ["Death", "story"]

ROWS = 24
"""Transfers of each life."""


class Death(msgspec.Struct, frozen=True):
    """Where a life is to end: at the `hit`-th passing of a point, or, without a point, `after` seconds of work."""

    point: str = ""
    hit: int = 1
    after: float = 0.0


def story(
    folder: Path,
    deaths: Sequence[Death],
    tally: Tally,
    removal: Removal = INTACT,
    rows: int = ROWS,
    engines: Engines | None = None,
) -> Story:
    """Live and die on one folder; raises `AssertionError` with everything that is wrong in the end. rows: transfers of
    each life."""
    folder.mkdir(parents=True)
    told: list[str] = []
    for number, death in enumerate(deaths, 1):
        worker = Forked(live(folder, Life(number * rows, death.point, death.hit, removal=removal, engines=engines)))
        if not death.point:
            worker.kill_after(death.after)
        end = yield worker
        tally.note(end, death.point)
        told.append(f"{end.how} {end.point or death.point} ({death.hit})")
        assert end.how in ("done", "killed"), f"{folder}: life {number} {end.how} at {end.point}: {end.text}"
    end = yield Forked(live(folder, Life(len(deaths) * rows + 1, removal=removal, engines=engines)))
    tally.note(end)
    assert end.how == "done", f"{folder}: after {told} the last life {end.how}: {end.text}"
    wrong = violations(folder, engines=engines)
    assert not wrong, f"{folder}: after {told}:\n" + "\n".join(wrong[:20])
