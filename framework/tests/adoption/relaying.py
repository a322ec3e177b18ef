"""`millstream relay` as a process, and what came to stand in the log that it forwards to."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

from millstream.clock import SystemClock
from millstream.message import Record, decode_message
from millstream.ports.instrumentation import Silent
from millstream.runtime.adapters import AdapterContext, open_transport

from .application import PATIENCE_SECONDS

PARTITIONS = 2


class RelayProcess:
    """One process; ready on enter, ended on exit, however it is."""

    def __init__(self, folder: Path, store: str, transport: str, *more: str) -> None:
        self._folder = folder
        self._arguments = [
            "--store",
            store,
            "--transport",
            transport,
            "--partitions",
            str(PARTITIONS),
            "--topic",
            "orders",
        ]
        self._arguments += [*more, "--port", "0", "--json", "--data", str(folder / "relay")]
        self.log = folder / "relay.log"
        self.url = ""

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "millstream", "relay", *self._arguments],
                cwd=self._folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            self.__exit__(None, None, None)
            raise AssertionError(f"the relay did not start: {self.log.read_text()}")
        self.url = json.loads(line)["url"]
        return self

    def answers(self, path: str) -> str:
        """What one of its probes says."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=PATIENCE_SECONDS) as reply:
            return reply.read().decode()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


async def records_of(transport: str, folder: Path, expected: int) -> list[Record]:
    """What the log holds: at least `expected` records are waited for."""
    context = AdapterContext(folder, SystemClock(), Silent())
    found: list[Record] = []
    give_up = time.monotonic() + PATIENCE_SECONDS
    async with open_transport(transport, context) as log:
        for partition in range(PARTITIONS):
            latest = (await log.bounds("orders", partition)).latest
            reader = log.read("orders", partition, 0)
            position = 0
            while position < latest:
                assert time.monotonic() < give_up
                batch = await reader.next(1_000)
                position = batch[-1].position
                found += [Record(record.value, record.key) for record in batch]
            await reader.aclose()
    assert len(found) >= expected
    return found


def first_occurrences(records: list[Record]) -> dict[str, list[int]]:
    """The numbers that each key's events carry, in the order of the log, without repeats."""
    seen: set[str] = set()
    numbers: dict[str, list[int]] = defaultdict(list)
    for record in records:
        message = decode_message(record.value)
        if message.id not in seen:
            seen.add(message.id)
            assert record.key == message.subject
            numbers[record.key or ""].append(int(json.loads(bytes(message.data))["note"]))
    return numbers
