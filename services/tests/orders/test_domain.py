"""What makes an order acceptable, as plain functions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_services.orders.domain import ADVANCES, MOVES, Line, NewOrder, keeps_money, problems_of

LINES = st.lists(
    st.builds(Line, st.text(min_size=1, max_size=20), st.integers(1, 10**6), st.integers(0, 10**9)),
    min_size=1,
    max_size=30,
).filter(lambda lines: sum(line.amount for line in lines) > 0)
ORDERS = LINES.map(lambda lines: NewOrder("2375", "USD", lines, sum(line.amount for line in lines), "sim_ok"))


@given(ORDERS)
def test_an_order_that_adds_up_is_acceptable(order: NewOrder) -> None:
    assert problems_of(order) == []


@given(ORDERS, st.data())
def test_one_wrong_line_is_named_and_only_it(order: NewOrder, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(order.lines) - 1))
    field, value, message = data.draw(
        st.sampled_from([("quantity", 0, "must be at least 1"), ("quantity", -3, "must be at least 1")])
    )
    lines = [replace(line, **{field: value}) if n == index else line for n, line in enumerate(order.lines)]
    assert [str(p) for p in problems_of(replace(order, lines=lines))] == [f"lines[{index}].{field} {message}"]


@given(ORDERS, st.integers(-(10**12), 10**12))
def test_any_other_total_is_refused(order: NewOrder, total: int) -> None:
    wrong = problems_of(replace(order, total=total))
    assert [p.at for p in wrong] == ([] if total == order.total else ["total"])


@given(
    st.builds(
        NewOrder,
        st.text(max_size=300),
        st.text(max_size=4),
        st.lists(
            st.builds(Line, st.text(max_size=300), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
        ),
        st.integers(-(2**63), 2**63 - 1),
        st.none() | st.text(max_size=20),
    )
)
def test_whatever_comes_is_judged_without_an_error(order: NewOrder) -> None:
    accepted = not problems_of(order)
    assert accepted <= (order.total == sum(line.amount for line in order.lines) > 0)
    assert accepted <= all(line.quantity >= 1 and line.amount >= 0 for line in order.lines)


def test_an_order_goes_forward_only_and_leaves_a_final_state_never() -> None:
    assert {state for state in ("CANCELLED", "DELIVERED") if state in MOVES} == set()
    assert [state for state, following in MOVES.items() if "CANCELLED" in following] == ["PENDING", "CONFIRMED"]
    way = ("CONFIRMED", *ADVANCES)
    assert all(to in MOVES[was] for was, to in pairwise(way))


@pytest.mark.parametrize(
    ("state", "paid_by", "keeps"),
    [
        ("CONFIRMED", "p1", True),
        ("DELIVERED", "p1", True),
        ("CONFIRMED", "p2", False),
        ("CANCELLED", "p1", False),
        ("FAILED", "p1", False),
        ("PENDING", None, False),
    ],
)
def test_money_stays_only_where_it_pays_for_something(state: str, paid_by: str | None, keeps: bool) -> None:
    assert keeps_money(state, paid_by, "p1") is keeps
