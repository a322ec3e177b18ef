"""The breaker opens on failures and slowness, and one probe decides when it closes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.errors import Busy, Misconfigured
from millstream.resilience.breaker import Breaker, BreakerOpen, BreakerPolicy
from millstream.testing.clock import ManualClock

POLICY = BreakerPolicy(window=10, least_calls=4, share=0.5, slow_after=2, pause=5)


def breaker(policy: BreakerPolicy = POLICY) -> tuple[Breaker, ManualClock]:
    clock = ManualClock()
    return Breaker("smtp", clock, policy), clock


def calls(made: Breaker, outcomes: str) -> None:
    """One call per letter: `.` succeeds, `x` fails."""
    for outcome in outcomes:
        made.admit().ended(ok=outcome == ".")


async def opened() -> tuple[Breaker, ManualClock]:
    made, clock = breaker()
    calls(made, "xxxx")
    return made, clock


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("xxx", "closed"),
        ("...x", "closed"),
        ("..xx", "open"),
        ("xx..", "closed"),
        ("xx..x", "open"),
        ("xxxx", "open"),
        ("." * 50, "closed"),
    ],
)
def test_it_opens_when_enough_calls_say_that_too_many_fail(outcomes: str, state: str) -> None:
    made, _ = breaker()
    calls(made, outcomes)
    assert made.state == state


def test_an_open_one_refuses_at_once_and_says_when_to_come_back() -> None:
    made, _ = breaker()
    calls(made, "xxxx")
    with pytest.raises(BreakerOpen) as caught:
        made.admit()
    assert (caught.value.name, caught.value.retry_after) == ("smtp", 5)
    assert isinstance(caught.value, Busy)


async def test_failures_outside_the_window_are_forgotten() -> None:
    made, clock = breaker()
    calls(made, "xxx")
    await clock.advance(10)
    calls(made, "x")
    assert made.state == "closed"


async def test_slow_successes_count_as_failures() -> None:
    made, clock = breaker()
    permits = [made.admit() for _ in range(4)]
    await clock.advance(2)
    for permit in permits:
        permit.ended(ok=True)
    assert made.state == "open"


async def test_after_the_pause_exactly_one_probe_goes() -> None:
    made, clock = await opened()
    await clock.advance(5)
    assert made.state == "half_open"
    made.admit()
    with pytest.raises(BreakerOpen) as caught:
        made.admit()
    assert caught.value.retry_after > 0


async def test_a_probe_that_succeeds_closes_and_the_old_failures_are_forgotten() -> None:
    made, clock = await opened()
    await clock.advance(5)
    calls(made, ".")
    assert made.state == "closed"
    calls(made, "xxx")
    assert made.state == "closed"


async def test_a_probe_that_fails_or_is_slow_opens_for_another_pause() -> None:
    made, clock = await opened()
    await clock.advance(5)
    calls(made, "x")
    assert made.state == "open"
    await clock.advance(5)
    slow = made.admit()
    await clock.advance(2)
    slow.ended(ok=True)
    assert made.state == "open"


async def test_a_probe_that_is_withdrawn_decides_nothing_and_lets_another_go() -> None:
    made, clock = await opened()
    await clock.advance(5)
    made.admit().withdrawn()
    assert made.state == "half_open"
    calls(made, ".")
    assert made.state == "closed"


async def test_a_call_from_before_the_opening_does_not_decide_about_the_probe() -> None:
    made, clock = breaker()
    early = made.admit()
    calls(made, "xxxx")
    early.ended(ok=True)
    assert made.state == "open"
    await clock.advance(5)
    made.admit()
    early.ended(ok=True)
    with pytest.raises(BreakerOpen):
        made.admit()


def test_a_permit_ends_once() -> None:
    made, _ = breaker()
    permit = made.admit()
    for _ in range(10):
        permit.ended(ok=False)
    assert made.state == "closed"


def test_only_blamed_exceptions_count_and_all_pass_through() -> None:
    made, _ = breaker()
    for error in [ValueError, asyncio.CancelledError] * 10:
        with pytest.raises(error), made.call(blames=OSError):
            raise error
    assert made.state == "closed"
    made, _ = breaker()
    for _ in range(4):
        with pytest.raises(TimeoutError), made.call(blames=OSError):
            raise TimeoutError
    assert made.state == "open"
    with pytest.raises(BreakerOpen), made.call():
        pytest.fail("the block of a refused call must not run")


async def test_a_successful_block_closes_it() -> None:
    made, clock = await opened()
    await clock.advance(5)
    with made.call():
        pass
    assert made.state == "closed"


@pytest.mark.parametrize("wrong", [{"share": 0}, {"share": 1.1}, {"least_calls": 0}, {"window": 0}, {"pause": -1}])
def test_a_policy_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        BreakerPolicy(**wrong)


moves = st.lists(
    st.sampled_from(["ok", "fail", "begin", "end ok", "end fail", "withdraw"]) | st.floats(0, 8), max_size=60
)


@given(moves)
def test_it_never_lets_two_probes_go_and_is_never_stuck(steps: list[str | float]) -> None:
    async def run() -> None:
        made, clock = breaker()
        under_way = []
        for step in steps:
            if isinstance(step, float):
                await clock.advance(step)
                continue
            if step in ("ok", "fail", "begin"):
                was = made.state
                try:
                    permit = made.admit()
                except BreakerOpen:
                    assert was != "closed"
                    continue
                assert was != "open"
                if was == "half_open":
                    with pytest.raises(BreakerOpen):
                        made.admit()
                if step == "begin":
                    under_way.append(permit)
                else:
                    permit.ended(ok=step == "ok")
            elif under_way:
                permit = under_way.pop(0)
                permit.withdrawn() if step == "withdraw" else permit.ended(ok=step == "end ok")
        for permit in under_way:
            permit.withdrawn()
        await clock.advance(POLICY.pause)
        made.admit().ended(ok=True)  # whatever happened, after a pause a call may go, and its success closes
        assert made.state == "closed"

    asyncio.run(run())
