"""The embedded log's copy of its newest records answers as the file would, within its bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream.message import Record
from millstream.testing.conformance.transport_case import keyed, values
from millstream.transports.log import LogOptions, LogTransport
from millstream.transports.log.recent import RECENT_BYTES, Recent


def records(first: int, last: int, size: int = 1) -> list[Record]:
    return [Record(bytes(size), None, position) for position in range(first, last + 1)]


def positions(found: object) -> list[int]:
    assert isinstance(found, list)
    return [record.position for record in found]


def test_it_answers_only_for_what_it_holds_whole() -> None:
    recent = Recent(10)
    assert recent.behind(10, 5) is None, "nothing is there yet"
    recent.add(records(11, 20))
    assert positions(recent.behind(10, 3)) == [11, 12, 13]
    assert positions(recent.behind(18, 5)) == [19, 20]
    assert recent.behind(9, 5) is None, "the first of them is in the file alone"
    assert recent.behind(20, 5) is None


def test_it_keeps_the_newest_within_its_bound() -> None:
    recent, size = Recent(0), RECENT_BYTES // 10
    for position in range(1, 101):
        recent.add(records(position, position, size))
    held = positions(recent.behind(100 - 4, 100))
    assert held == [97, 98, 99, 100]
    assert recent.behind(80, 100) is None
    recent.add(records(101, 101, RECENT_BYTES * 3))
    assert recent.behind(100, 1) is None, "one record beyond the bound is not held at all"
    recent.add(records(102, 102))
    assert positions(recent.behind(101, 1)) == [102]


def test_what_retention_removed_is_forgotten() -> None:
    recent = Recent(0)
    recent.add(records(1, 10))
    recent.forget(4)
    assert recent.behind(3, 1) is None
    assert positions(recent.behind(4, 2)) == [5, 6]
    recent.forget(2)
    recent.forget(99)
    assert recent.behind(9, 1) is None
    recent.add(records(11, 11))
    assert positions(recent.behind(10, 9)) == [11]


@pytest.mark.parametrize("fresh", [True, False], ids=["from memory", "from the file"])
async def test_a_reader_sees_the_same_from_memory_and_from_the_file(fresh: bool, tmp_path: Path) -> None:
    log = LogTransport(tmp_path / "log.db", options=LogOptions(keep=0))
    async with log:
        await log.provision("orders", 1)
        for number in range(0, 100, 10):
            await log.publish("orders", 0, keyed("ключ", *range(number, number + 10)))
        if fresh:
            assert values(await log.read("orders", 0, 95).next(3)) == ["ключ:95", "ключ:96", "ключ:97"]
            assert [r.position for r in await log.read("orders", 0, 95).next(9)] == [96, 97, 98, 99, 100]
            assert [r.key for r in await log.read("orders", 0, 99).next(9)] == ["ключ"]
    if not fresh:
        async with log:
            assert [r.position for r in await log.read("orders", 0, 95).next(9)] == [96, 97, 98, 99, 100]
            assert values(await log.read("orders", 0, 95).next(3)) == ["ключ:95", "ключ:96", "ключ:97"]
