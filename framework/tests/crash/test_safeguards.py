"""A safeguard whose removal nothing catches is not tested: each of these lives has one taken out, and must be caught.

The same kills as everywhere, and the same judgement; the tests pass when it finds what must go wrong.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bank import POISON
from invariants import violations
from life import BETWEEN, Life, live
from millstream.testing.crash.campaign import Tally, play
from millstream.testing.crash.forked import Forked
from millstream.testing.removals.consumption import NoInbox, NoLaneCheck, NoStartMarker, NoSuspicion, PositionApart
from millstream.testing.removals.publishing import EarlyConfirmation, OutboxApart, UncommittedRows
from millstream.testing.removals.removal import INTACT, Removal
from stories import Death, story

PATIENCE = 4
"""Stories in which a safeguard's absence must show. One is nearly always enough."""
LIVES = 8
"""Processes that a message may kill: one in a batch, `crash_starts` alone, and some for what else is under way."""

REMOVED = {
    "inbox": (NoInbox(), [Death("log: after publish", 3), Death("log: after publish", 4)], "booked: .* times"),
    "position-inside-the-transaction": (PositionApart(), [Death(BETWEEN, 3)], "booked: .* never"),
    "outbox-inside-the-transaction": (OutboxApart(), [Death(BETWEEN, 3)], "booked: .* never"),
    "deletion-after-confirmation": (
        EarlyConfirmation(seconds=0.02),
        [Death("bank: after COMMIT of delete outbox", 2)],
        "booked: .* never",
    ),
    # What was taken back is handled beside the transfer that got its number next, or its row's id hides another row.
    "committed-rows-only": (UncommittedRows(), [Death()], "booked: .* (never|times)"),
    "lane-check": (NoLaneCheck(), [Death("till: delete parked", 9)], "booked: .* behind"),
}


@pytest.mark.parametrize("name", REMOVED)
def test_the_removal_of_a_safeguard_is_caught(name: str, tmp_path: Path, tally: Tally) -> None:
    removal, deaths, expected = REMOVED[name]
    deaths = [death if death.point else Death("bank: insert transfers", 150) for death in deaths]
    with pytest.raises(AssertionError, match=expected):
        play((story(tmp_path / str(n), deaths, tally, removal, rows=160) for n in range(PATIENCE)), lanes=1)


@pytest.mark.parametrize("name", REMOVED)
def test_the_same_kills_do_no_harm_with_the_safeguard_in_place(name: str, tmp_path: Path, tally: Tally) -> None:
    _, deaths, _ = REMOVED[name]
    known = [d for d in deaths if d.point not in ("", BETWEEN)] or [Death("bank: insert transfers", 150)]
    play([story(tmp_path / "0", known, tally, rows=160)])


def _lives(folder: Path, removal: Removal, tally: Tally) -> int:
    """How many lives a message that kills costs until the system comes to rest; 0 if it does not in `LIVES`."""
    for number in range(1, LIVES + 1):
        end = Forked(live(folder, Life(80, poison=True, removal=removal))).wait()
        tally.note(end)
        assert end.how in ("killed", "done"), end.text
        if end.how == "done":
            return number
    return 0


def test_a_message_that_kills_its_process_becomes_a_dead_letter(tmp_path: Path, tally: Tally) -> None:
    assert _lives(tmp_path, INTACT, tally) > 1
    assert violations(tmp_path, frozenset({POISON})) == []


@pytest.mark.parametrize("removal", [NoStartMarker(), NoSuspicion()], ids=["start-marker", "suspicion"])
def test_without_its_marker_a_message_kills_for_ever(removal: Removal, tmp_path: Path, tally: Tally) -> None:
    assert _lives(tmp_path, removal, tally) == 0
