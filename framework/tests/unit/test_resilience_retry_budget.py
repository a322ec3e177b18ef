"""Retries stay a fraction of the calls."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.errors import Misconfigured
from millstream.resilience.retry_budget import RetryBudget
from millstream.testing.clock import ManualClock


def spent(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.spend() for _ in range(wanted))


def test_it_begins_with_the_longest_burst() -> None:
    assert spent(RetryBudget(ManualClock(), most=3), 10) == 3


def test_first_tries_earn_their_share() -> None:
    budget = RetryBudget(ManualClock(), share=0.25, most=5)
    spent(budget, 5)
    for _ in range(8):
        budget.earn()
    assert spent(budget, 10) == 2


async def test_a_little_flows_in_with_time_up_to_the_burst() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock, per_second=2, most=5)
    spent(budget, 5)
    await clock.advance(1)
    assert spent(budget, 10) == 2
    await clock.advance(1_000)
    assert spent(budget, 10) == 5


@pytest.mark.parametrize("wrong", [{"share": -1}, {"per_second": -1}, {"most": 0.5}])
def test_a_budget_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Misconfigured):
        RetryBudget(ManualClock(), **wrong)


@given(
    st.lists(st.sampled_from(["call", "retry"]) | st.floats(0, 5), max_size=200),
    st.floats(0, 1), st.floats(0, 3), st.floats(1, 20),
)  # fmt: skip
def test_retries_never_exceed_burst_plus_share_of_calls_plus_time(
    steps: list[str | float], share: float, per_second: float, most: float
) -> None:
    async def run() -> None:
        clock = ManualClock()
        budget = RetryBudget(clock, share=share, per_second=per_second, most=most)
        called = retried = 0
        for step in steps:
            if isinstance(step, float):
                await clock.advance(step)
            elif step == "call":
                budget.earn()
                called += 1
            else:
                retried += budget.spend()
            assert retried <= most + share * called + per_second * clock.monotonic() + 1e-6
            assert 0 <= budget.tokens <= most

    asyncio.run(run())
