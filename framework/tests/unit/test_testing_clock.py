"""The clock that a test moves by hand."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.clock import Clock
from millstream.testing.clock import ManualClock


async def test_both_clocks_stand_still_until_they_are_moved_together() -> None:
    clock: Clock = ManualClock(1_000_000)
    assert isinstance(clock, ManualClock)
    assert (clock.now_us(), clock.monotonic()) == (1_000_000, 0.0)
    await clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic()) == (2_500_000, 1.5)
    with pytest.raises(ValueError, match="does not go back"):
        await clock.advance(-1)


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 50), min_size=1))
def test_timers_fire_in_the_order_of_their_moments_however_the_clock_is_moved(
    delays: list[float], moves: list[float]
) -> None:
    async def run() -> None:
        clock = ManualClock()
        fired: list[tuple[float, int]] = []
        for number, delay in enumerate(delays):
            clock.call_later(delay, lambda at=(delay, number): fired.append(at))
        for move in moves:
            await clock.advance(move)
            assert fired == sorted(at for at in enumerate_due(delays, clock.monotonic()))
        assert clock.waiting == len(delays) - len(fired)

    asyncio.run(run())


def enumerate_due(delays: list[float], now: float) -> list[tuple[float, int]]:
    return [(delay, number) for number, delay in enumerate(delays) if delay <= now]


async def test_a_callback_sees_its_own_moment_and_may_ask_for_another_within_the_same_move() -> None:
    clock = ManualClock()
    seen: list[float] = []

    def tick() -> None:
        seen.append(clock.monotonic())
        clock.call_later(1, tick)

    clock.call_later(1, tick)
    await clock.advance(3.5)
    assert seen == [1, 2, 3]
    assert clock.monotonic() == 3.5


async def test_the_loop_settles_between_two_timers() -> None:
    clock = ManualClock()
    steps: list[str] = []

    async def work(name: str, delay: float) -> None:
        await clock.sleep(delay)
        for step in range(5):
            steps.append(f"{name}{step}")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(work("b", 2))
        group.create_task(work("a", 1))
        await clock.advance(2)
    assert steps == [f"{name}{step}" for name in "ab" for step in range(5)]


@pytest.mark.parametrize("steps", [0, 3, 17, 41])
async def test_what_the_wall_clock_shows_as_reached_has_happened_however_small_the_steps(steps: int) -> None:
    clock = ManualClock()
    for _ in range(steps):
        await clock.advance(0.1)
    due_us, fired = clock.now_us() + 1_000_000, list[int]()
    clock.call_later((due_us - clock.now_us()) / 1e6, lambda: fired.append(clock.now_us()))
    while clock.now_us() < due_us:
        await clock.advance(0.1)
    assert fired == [due_us]


async def test_a_cancelled_timer_does_not_fire_and_a_cancelled_sleep_leaves_none() -> None:
    clock = ManualClock()
    fired: list[int] = []
    clock.call_later(1, lambda: fired.append(1)).cancel()
    late = clock.call_later(2, lambda: fired.append(2))
    clock.call_later(1, late.cancel)
    sleeper = asyncio.get_running_loop().create_task(clock.sleep(1))
    await asyncio.sleep(0)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    await clock.advance(5)
    assert fired == []
    assert clock.waiting == 0


async def test_sleeping_for_nothing_needs_no_move() -> None:
    clock = ManualClock()
    await clock.sleep(0)
    await clock.sleep(-1)


async def test_advance_to_next_goes_from_moment_to_moment_and_says_when_nobody_waits() -> None:
    clock = ManualClock()
    fired: list[str] = []
    for name, delay in (("b", 7.0), ("a", 3.0), ("c", 7.0)):
        clock.call_later(delay, lambda name=name: fired.append(name))
    assert await clock.advance_to_next()
    assert (fired, clock.monotonic()) == (["a"], 3.0)
    assert await clock.advance_to_next()
    assert (fired, clock.monotonic()) == (["a", "b", "c"], 7.0)
    assert not await clock.advance_to_next()
    assert clock.monotonic() == 7.0


@given(st.floats(0, 1e6), st.lists(st.floats(1e-9, 1e6), min_size=1))
def test_advance_to_next_misses_no_moment_by_rounding(start: float, delays: list[float]) -> None:
    async def run() -> None:
        clock = ManualClock()
        await clock.advance(start)
        fired: list[float] = []
        for delay in delays:
            clock.call_later(delay, lambda: fired.append(clock.monotonic()))
        moves = 0
        while await clock.advance_to_next():
            moves += 1
            assert len(fired) >= moves
        assert fired == sorted(start + delay for delay in delays)

    asyncio.run(run())


async def test_advance_to_next_waits_for_a_task_that_is_about_to_sleep() -> None:
    clock = ManualClock()
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.sleep(4))
        assert await clock.advance_to_next()
    assert clock.monotonic() == 4


async def test_a_callback_runs_in_the_context_it_was_asked_for_in() -> None:
    clock = ManualClock()
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    variable.set("asked")
    clock.call_later(1, lambda: seen.append(variable.get()))
    variable.set("moved")
    await clock.advance(1)
    assert seen == ["asked"]


async def test_a_task_that_never_waits_is_reported() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - the mistake that is to be found
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(spin())
    with pytest.raises(RuntimeError, match="spins"):
        await ManualClock().advance(1)
    task.cancel()


def test_it_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> float:
        clock = ManualClock()
        async with asyncio.TaskGroup() as group:
            group.create_task(clock.sleep(4))
            await clock.advance(4)
        return clock.monotonic()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == 4
