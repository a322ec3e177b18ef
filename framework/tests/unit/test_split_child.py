"""One process of a split system, as its supervisor keeps it: started anew with growing pauses, its lines named."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from millstream.clock import SystemClock
from millstream.ids import SystemEntropy
from millstream.ports.instrumentation import Silent
from millstream.runtime.child import Child, Failed, Plan, labelled

READY = "print('{\"ready\":true}', flush=True)"


class Lines(Silent):
    """What was logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})


class Chance(SystemEntropy):
    """Always the same one."""

    def random(self) -> float:
        return 0.5


def child(program: str) -> tuple[Child, Lines]:
    lines = Lines()
    plan = Plan("orders-0", (sys.executable, "-c", program), os.environ)
    return Child(plan, SystemClock(), Chance(), lines), lines


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the log is a list
            await asyncio.sleep(0.01)


async def test_a_process_that_ends_again_and_again_is_started_anew_after_growing_pauses() -> None:
    process, lines = child(f"{READY}; raise SystemExit(3)")
    async with asyncio.TaskGroup() as group:
        group.create_task(process.run())
        await until(lambda: len(lines.events) == 3)
        await process.stop(5)
    assert [(line["event"], line["process"], line["code"]) for line in lines.events] == [
        ("process_ended", "orders-0", 3)
    ] * 3
    first, second, third = (line["again_in_s"] for line in lines.events)
    assert 0 < first < second < third


async def test_a_process_that_ends_before_it_was_ready_is_not_started_again() -> None:
    process, lines = child("raise SystemExit(2)")
    with pytest.raises(Failed) as failed:
        await process.run()
    assert (failed.value.name, failed.value.code) == ("orders-0", 2)
    assert lines.events == []


async def test_a_process_that_does_not_stop_is_killed() -> None:
    process, lines = child(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}; signal.pause()")
    async with asyncio.TaskGroup() as group:
        group.create_task(process.run())
        async with asyncio.timeout(30):
            await process.ready.wait()
        await process.stop(0.2)
    assert process.pid is None
    assert process.code == -9
    assert [line["event"] for line in lines.events] == ["process_killed"]


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ('{"event":"x"}\n', '{"process":"orders-0","event":"x"}\n'),
        ("Traceback (most recent call last):\n", "orders-0         Traceback (most recent call last):\n"),
        ('{"half of a line\n', 'orders-0         {"half of a line\n'),
    ],
)
def test_a_line_gets_the_name_of_its_process(line: str, written: str) -> None:
    assert labelled("orders-0", line) == written
