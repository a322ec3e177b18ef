"""So many at once, so many waiting, in order, and no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.errors import Busy, Misconfigured
from millstream.resilience.bulkhead import Bulkhead, BulkheadFull
from millstream.testing.clock import ManualClock


def bulkhead(clock: ManualClock, concurrency: int = 1, queue: int = 2, patience: float = 5) -> Bulkhead:
    return Bulkhead("smtp", clock, concurrency=concurrency, queue=queue, patience=patience)


async def test_beyond_both_bounds_it_refuses_at_once_and_names_itself() -> None:
    clock = ManualClock()
    made = bulkhead(clock, concurrency=1, queue=0)
    async with made.place():
        with pytest.raises(BulkheadFull, match="smtp") as caught:
            async with made.place():
                pytest.fail("there is no place")
        assert isinstance(caught.value, Busy)
    async with made.place():
        assert made.running == 1
    assert made.running == 0


async def test_who_waits_is_served_in_the_order_of_arrival() -> None:
    clock = ManualClock()
    made = bulkhead(clock, queue=3)
    served: list[int] = []

    async def work(number: int) -> None:
        async with made.place():
            served.append(number)
            await clock.sleep(1)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(number))
        await clock.advance(4)
    assert served == [0, 1, 2, 3]


async def test_who_waits_too_long_is_refused_and_frees_its_place_in_the_queue() -> None:
    clock = ManualClock()
    made = bulkhead(clock, queue=1, patience=5)

    async def wait() -> None:
        with pytest.raises(BulkheadFull):
            async with made.place():
                pytest.fail("there is no place")

    async with made.place(), asyncio.TaskGroup() as group:
        group.create_task(wait())
        await clock.advance(4.9)
        assert made.waiting == 1
        await clock.advance(0.1)
        assert made.waiting == 0
    assert clock.waiting == 0


async def test_an_exception_in_the_block_gives_the_place_back() -> None:
    made = bulkhead(ManualClock())
    with pytest.raises(ZeroDivisionError):
        async with made.place():
            raise ZeroDivisionError
    assert made.running == 0


async def test_a_cancellation_at_the_moment_of_the_handover_loses_no_place() -> None:
    clock = ManualClock()
    made = bulkhead(clock)
    entered: list[int] = []

    async def wait() -> None:
        async with made.place():
            entered.append(1)

    async with made.place():
        waiter = asyncio.get_running_loop().create_task(wait())
        await clock.advance(0)
    waiter.cancel()  # the place was just handed to it
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (made.running, made.waiting, entered) == (0, 0, [])


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"queue": -1}, {"patience": -1}])
def test_bounds_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(Misconfigured):
        bulkhead(ManualClock(), **wrong)


jobs = st.lists(st.tuples(st.floats(0.1, 5), st.booleans(), st.floats(0, 10)), max_size=25)


@given(jobs, st.integers(1, 3), st.integers(0, 4))
def test_the_bounds_hold_and_every_place_comes_back(
    work: list[tuple[float, bool, float]], concurrency: int, queue: int
) -> None:
    async def run() -> None:
        clock = ManualClock()
        made = bulkhead(clock, concurrency, queue, patience=3)
        inside = 0

        async def job(seconds: float) -> None:
            nonlocal inside
            try:
                async with made.place():
                    inside += 1
                    assert inside <= concurrency
                    try:
                        await clock.sleep(seconds)
                    finally:
                        inside -= 1
            except BulkheadFull:
                pass

        async with asyncio.TaskGroup() as group:
            for seconds, cancelled, at in work:
                task = group.create_task(job(seconds))
                if cancelled:
                    clock.call_later(at, task.cancel)
                await clock.advance(0.2)
                assert made.running <= concurrency
                assert made.waiting <= queue
            while await clock.advance_to_next():
                assert made.running == inside
        assert (made.running, made.waiting, clock.waiting) == (0, 0, 0)

    asyncio.run(run())
