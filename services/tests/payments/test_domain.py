"""What an answer does to a payment, as plain functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_services.payments.domain import (
    OPEN,
    Answer,
    Outcome,
    Step,
    ask_delay,
    attempts_of,
    refundable,
    step_after,
)


@pytest.mark.parametrize("outcome", [*OPEN, None])
@pytest.mark.parametrize("answer", list(Answer))
def test_an_unknown_outcome_is_never_a_failure(answer: Answer, outcome: Outcome | None) -> None:
    step = step_after(answer, outcome)
    assert (step in (Step.FAIL, Step.GIVE_UP)) == (answer in (Answer.DECLINED, Answer.CANCELLED))
    assert (step is Step.CAPTURE) == (answer is Answer.SUCCEEDED)


def test_a_charge_is_made_again_only_when_an_unanswered_one_never_arrived() -> None:
    again = [o for o in (*OPEN, None) if step_after(Answer.NOT_FOUND, o) is Step.CHARGE_AGAIN]
    assert again == [Outcome.UNKNOWN]


def test_silence_takes_nothing_back_from_a_provider_that_accepted() -> None:
    assert step_after(Answer.UNKNOWN, Outcome.PENDING) is Step.NOTHING


@given(st.integers(0, 10**6), st.integers(1, 10**7))
def test_questions_become_rarer_up_to_one_a_minute(asked: int, first_us: int) -> None:
    assert first_us <= ask_delay(asked, first_us) <= 60_000_000
    assert ask_delay(asked, first_us) <= ask_delay(asked + 1, first_us)


@given(st.integers(1, 50), st.integers(1, 10))
def test_the_tries_of_a_call_are_errors_and_then_its_outcome(n: int, tries: int) -> None:
    done = attempts_of(n, tries, Outcome.SUCCEEDED)
    assert [t.n for t in done] == list(range(n, n + tries))
    assert [t.outcome for t in done] == [Outcome.ERROR] * (tries - 1) + [Outcome.SUCCEEDED]


@given(st.integers(0, 10**9), st.lists(st.integers(1, 10**8)))
def test_refunds_never_exceed_what_was_captured(captured: int, wanted: list[int]) -> None:
    reserved = 0
    for amount in wanted:
        if amount <= refundable(captured, reserved):
            reserved += amount
    assert 0 <= reserved <= captured
