"""What `make bench-peers` concludes from the rows that a run left behind: it judges others, so it is itself under test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# `bench` is not installed: `python -m pytest` finds it by itself, `pytest` does not.
sys.path.append(str(Path(__file__).parents[1]))

from bench.peers.catalogue import ROWS, chosen
from bench.peers.goals import goals
from bench.peers.judge import (
    Effect,
    judge,
    latencies,
    longest_pauses,
    percentile,
    steady_rate,
)
from bench.peers.phases import Measured
from bench.peers.report import COLUMNS, cells
from bench.peers.workload import EVENT_BYTES, KEYS, Task, Units, body, key_of


def effects(*rows: tuple[int, int]) -> list[Effect]:
    """Each row: number of the event, microsecond of its commit."""
    return [Effect(n, key_of(n), at) for n, at in rows]


def test_an_event_without_an_effect_is_lost_and_one_with_two_is_doubled() -> None:
    verdict = judge(range(4), effects((0, 1), (1, 2), (1, 3), (3, 4)))
    assert (verdict.events, verdict.lost, verdict.doubled, verdict.disordered) == (4, 1, 1, 0)


def test_order_is_judged_within_a_key_and_by_first_effects() -> None:
    later = KEYS  # the same key as 0
    assert judge([0, 1, later], effects((1, 1), (0, 2), (later, 3))).disordered == 0
    assert judge([0, later], effects((later, 1), (0, 2))).disordered == 1
    repeated = judge([0, later], effects((0, 1), (later, 2), (0, 3)))
    assert (repeated.disordered, repeated.doubled) == (0, 1), "a repeat is doubled, and not also out of order"


def test_a_latency_ends_at_the_first_effect() -> None:
    assert latencies({7: 1_000_000, 8: 0}, effects((7, 1_004_000), (7, 1_009_000))) == [0.004]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([3.0], 99) == 3.0


def test_a_rate_leaves_out_what_came_with_the_first_commit() -> None:
    assert steady_rate(effects((0, 0), (1, 0), (2, 500_000), (3, 1_000_000))) == 2.0
    assert steady_rate(effects((0, 5), (1, 5))) is None


def test_recovery_is_the_longest_pause_between_a_kill_and_the_next() -> None:
    rows = effects((0, 0), (1, 3_000_000), (2, 3_100_000), (3, 9_000_000))
    assert longest_pauses([1_000_000, 4_000_000], rows) == [2.0, 5.0]
    assert longest_pauses([10_000_000], rows) == [0.0], "nothing was left to do"


@pytest.mark.parametrize("n", [0, 9, 10, 54_321, 10_000_000])
def test_every_event_has_the_same_size(n: int) -> None:
    assert len(json.dumps(body(n), separators=(",", ":"))) == EVENT_BYTES


def test_a_producer_never_has_a_key_under_way_twice() -> None:
    for per_tx in (1, 20, 100):
        units = Units(Task("produce", events=450, per_tx=per_tx))
        assert units.side_by_side * per_tx < KEYS
        assert [n for numbers in units for n in numbers] == list(range(450))


def test_rows_are_chosen_by_name_and_by_group() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    rows, unknown = chosen(["millstream", "pgqueuer", "sqs"])
    assert {row.group for row in rows} == {"millstream", "pgqueuer"}
    assert unknown == ["sqs"]
    assert chosen([])[0] == list(ROWS)


def test_a_row_that_failed_has_a_line_too() -> None:
    assert len(cells(ROWS[0], Measured(failed=["nats did not start"]))) == len(COLUMNS)


def test_a_goal_is_judged_for_what_was_measured_only() -> None:
    by_name = {row.name: row for row in ROWS}
    reached = goals(
        [
            (by_name["millstream-nats"], Measured(end_to_end=4_100.0, p50_ms=3.5, lost=0)),
            (by_name["pgqueuer"], Measured(end_to_end=4_200.0)),
            (by_name["pgqueuer-100"], Measured(end_to_end=9_000.0)),
            (by_name["watermill-sql"], Measured(end_to_end=9_000.0)),
        ]
    )
    assert {figure.name: figure.met for figure in reached} == {
        "millstream-nats end_to_end": True,
        "millstream-nats ahead of pgqueuer": False,
        "millstream-nats p50_ms": False,
        "millstream-nats lost": True,
    }
