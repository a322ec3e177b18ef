"""The work that everybody does, and what a program is asked: events, tables, command line, environment.

Standard library only: the peers' programs import it in an environment without Millstream. A program's producer prints one
line of JSON when it has finished, `Produced`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "BUSINESS",
    "EFFECT",
    "IN_FLIGHT",
    "KEYS",
    "PARTITIONS",
    "POOL",
    "REDELIVERY_SECONDS",
    "Produced",
    "Task",
    "body",
    "engine",
    "key_of",
    "loop_run",
    "main",
    "produce",
    "produce_in_threads",
    "topic",
]

KEYS = 1_000
EVENT_BYTES = 200
IN_FLIGHT = 50
"""Transactions that a producer has under way at once, and messages that a worker handles at once: what the peers' docs
suggest for work that waits for a database."""
POOL = 16
"""Connections to PostgreSQL of one process: on two cores more of them gain nothing."""
REDELIVERY_SECONDS = 10
"""How long an engine or a peer waits for a worker that has gone silent, where that can be set: defaults go up to an hour."""
PARTITIONS = 8
SPREAD = KEYS - 200
"""Events under way at once stay below the number of keys: the order of a key is then the order of its numbers."""

BUSINESS = "INSERT INTO business (key, n) VALUES ($1, $2)"
EFFECT = "INSERT INTO effects (key, n) VALUES ($1, $2)"

_keys = [f"key-{n:04d}" for n in range(KEYS)]
_bare = len(json.dumps({"key": _keys[0], "n": 0, "text": ""}, separators=(",", ":")))


def key_of(n: int) -> str:
    """The key of the n-th event."""
    return _keys[n % KEYS]


def body(n: int) -> dict[str, Any]:
    """The n-th event: `EVENT_BYTES` bytes of JSON."""
    return {"key": key_of(n), "n": n, "text": "x" * (EVENT_BYTES - _bare + 1 - len(str(n)))}


@dataclass(frozen=True)
class Task:
    """What a program shall do.

    events, seconds: a producer ends at whichever comes first. rate: events per second, 0 for as fast as it goes. first: the
    number of the first event. per_tx: events that share a transaction.
    """

    role: str
    events: int = 0
    seconds: float = 60.0
    rate: float = 0.0
    first: int = 0
    per_tx: int = 1

    def arguments(self) -> list[str]:
        """The command line that says so."""
        return [
            self.role,
            *("--events", str(self.events)),
            *("--seconds", str(self.seconds)),
            *("--rate", str(self.rate)),
            *("--first", str(self.first)),
            *("--per-tx", str(self.per_tx)),
        ]


@dataclass(frozen=True)
class Produced:
    """What a producer reports. cpu_seconds: of its process from the first event on."""

    events: int
    seconds: float
    cpu_seconds: float


def engine(name: str) -> str:
    """The URL of an engine, or the name of a thing that is this run's own: `PEER_<NAME>` of the environment."""
    return os.environ[f"PEER_{name.upper()}"]


def topic() -> str:
    """A name for topics, queues and streams that no other run uses."""
    return engine("topic")


def main(roles: dict[str, Callable[[Task], object]]) -> None:
    """Run the role that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted(roles))
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--per-tx", type=int, default=1)
    task = Task(**vars(parser.parse_args()))
    roles[task.role](task)


def loop_run(work: Coroutine[Any, Any, Any]) -> None:
    """Run on uvloop, which everybody gets."""
    import uvloop

    uvloop.run(work)


Publish = Callable[[Sequence[int]], Awaitable[object]]


async def produce(task: Task, publish: Publish, after: Callable[[], Awaitable[object]] | None = None) -> None:
    """Call `publish` with the numbers of one transaction at a time, `IN_FLIGHT` of them side by side or at the task's rate;
    then `after`, for what must happen before the process may end; then report."""
    loop = asyncio.get_running_loop()
    began, cpu = time.perf_counter(), time.process_time()
    units = Units(task)
    if task.rate:
        async with asyncio.TaskGroup() as group:
            for count, numbers in enumerate(units):
                await asyncio.sleep(max(0.0, began + count * task.per_tx / task.rate - time.perf_counter()))
                group.create_task(_one(publish, numbers))
    else:

        async def producer() -> None:
            for numbers in units:
                await publish(numbers)

        async with asyncio.TaskGroup() as group:
            for _ in range(units.side_by_side):
                group.create_task(producer())
    seconds = time.perf_counter() - began
    if after is not None:
        await after()
    assert loop.is_running()
    _report(units.given, seconds, cpu)


async def _one(publish: Publish, numbers: Sequence[int]) -> None:
    await publish(numbers)


def produce_in_threads(task: Task, open_publish: Callable[[], Callable[[Sequence[int]], object]]) -> None:
    """The same for libraries that block: `POOL` threads, each with what `open_publish` gives it."""
    began, cpu = time.perf_counter(), time.process_time()
    units, lock, failed = Units(task), threading.Lock(), list[BaseException]()

    def producer() -> None:
        try:
            publish = open_publish()
            while True:
                with lock:
                    count, numbers = units.taken, next(units, None)
                if numbers is None:
                    return
                if task.rate:
                    time.sleep(max(0.0, began + count * task.per_tx / task.rate - time.perf_counter()))
                publish(numbers)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
            failed.append(error)

    threads = [threading.Thread(target=producer) for _ in range(min(POOL, units.side_by_side))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    _report(units.given, time.perf_counter() - began, cpu)


class Units(Iterator[range]):
    """The numbers of one transaction after another, until the task's events or seconds are over."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._until = time.perf_counter() + task.seconds
        self.given = 0
        """Events handed out so far."""
        self.taken = 0
        """Transactions handed out so far."""
        self.side_by_side = max(1, min(IN_FLIGHT, SPREAD // task.per_tx))

    def __next__(self) -> range:
        left = self._task.events - self.given
        if left <= 0 or time.perf_counter() > self._until:
            raise StopIteration
        first = self._task.first + self.given
        count = min(left, self._task.per_tx)
        self.given += count
        self.taken += 1
        return range(first, first + count)


def _report(events: int, seconds: float, cpu: float) -> None:
    print(json.dumps(asdict(Produced(events, seconds, time.process_time() - cpu))), flush=True)
    sys.stdout.flush()
