"""A deadline is a moment, however it travels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.errors import Transient, Undecodable
from millstream.resilience.deadline import Deadline, DeadlineExceeded
from millstream.testing.clock import ManualClock

START_US = 1_700_000_000_000_000


class JumpingClock(ManualClock):
    """A manual clock whose wall clock a test may set."""

    jumped_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.jumped_us


async def test_the_time_left_shrinks_to_nothing_and_then_the_deadline_has_passed() -> None:
    clock = ManualClock()
    deadline = Deadline.after(clock, 2)
    await clock.advance(1.5)
    assert (deadline.remaining(), deadline.passed) == (0.5, False)
    deadline.check()
    await clock.advance(0.5)
    assert (deadline.remaining(), deadline.passed) == (0, True)
    await clock.advance(10)
    assert deadline.remaining() == 0
    with pytest.raises(DeadlineExceeded) as caught:
        deadline.check()
    assert isinstance(caught.value, Transient)


async def test_without_a_deadline_there_is_always_time_left() -> None:
    clock = ManualClock()
    never = Deadline.never(clock)
    await clock.advance(1e9)
    never.check()
    assert (never.remaining(), never.passed, never.to_us(), never.to_text()) == (None, False, None, None)
    assert Deadline.from_us(clock, None).remaining() is None
    assert Deadline.from_text(clock, None).remaining() is None
    assert never.earliest(Deadline.never(clock)).remaining() is None


@given(st.integers(0, 10**12))
def test_a_deadline_comes_over_the_wire_as_it_went(ahead_us: int) -> None:
    clock = ManualClock(START_US)
    moment = START_US + ahead_us
    assert Deadline.from_us(clock, moment).to_us() == moment
    text = Deadline.from_us(clock, moment).to_text()
    assert text is not None
    assert text.endswith("Z")
    assert Deadline.from_text(clock, text).to_us() == moment


async def test_passing_a_deadline_on_does_not_lengthen_it() -> None:
    clock = ManualClock(START_US)
    deadline = Deadline.after(clock, 3)
    for _ in range(2):
        await clock.advance(1)
        deadline = Deadline.from_text(clock, deadline.to_text())
    assert deadline.remaining() == pytest.approx(1)


def test_a_moment_in_the_past_has_passed() -> None:
    assert Deadline.from_us(ManualClock(START_US), START_US - 1).passed


def test_a_text_that_is_no_time_is_refused() -> None:
    with pytest.raises(Undecodable):
        Deadline.from_text(ManualClock(), "tomorrow")


async def test_a_wall_clock_that_jumps_ends_no_call_early() -> None:
    clock = JumpingClock(START_US)
    deadline = Deadline.from_us(clock, START_US + 5_000_000)
    clock.jumped_us = 3_600_000_000
    assert deadline.remaining() == 5


@given(st.lists(st.floats(0, 1e6) | st.none(), min_size=1))
def test_the_earliest_of_several_is_the_one_with_the_least_time_left(times: list[float | None]) -> None:
    clock = ManualClock()
    deadlines = [Deadline.never(clock) if time is None else Deadline.after(clock, time) for time in times]
    assert deadlines[0].earliest(*deadlines[1:]).remaining() == min((t for t in times if t is not None), default=None)


def test_a_step_has_its_own_budget_within_the_whole() -> None:
    clock = ManualClock()
    assert Deadline.after(clock, 10).within(2).remaining() == 2
    assert Deadline.after(clock, 1).within(2).remaining() == 1
    assert Deadline.never(clock).within(2).remaining() == 2
